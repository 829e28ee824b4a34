# SPDX-License-Identifier: Apache-2.0
"""The smallest segment that is accepted serves whatever is asked of it at once; a smaller one is refused."""
import threading

import pytest
from support import Instance

from tools.instance import config
from xseg.client import Client
from xseg.errors import Invalid

SMALLEST = "[segment]\n" + "".join(f"{key} = {list(low) if isinstance(low, tuple) else low}\n"
                                   for key, low in config.SEGMENT_MINIMA.items())
VOLUMES, SIZE, BLOCK = 12, 64 << 20, 65536
PATIENCE_S = 120


@pytest.mark.parametrize("key, low", config.SEGMENT_MINIMA.items())
def test_a_smaller_segment_is_refused_with_the_figure(home, key, low):
    smaller = [low[0] - 1, *low[1:]] if isinstance(low, tuple) else low - 1
    Instance(home, f"[segment]\n{key} = {smaller}\n")
    with pytest.raises(Invalid, match=f"{key}.*{low[0] if isinstance(low, tuple) else low} at least"):
        config.read(home)


def test_the_smallest_segment_serves_many_at_once(home, layout):
    instance = Instance(home, f'layout = "{layout}"\n' + SMALLEST)
    instance.env.pop(config.SCANTY)
    serves_many_at_once(instance)


@pytest.mark.layout("colocated")
def test_more_snapshots_at_once_than_the_mapper_has_requests_wait_for_each_other(home):
    slots = config.SEGMENT_MINIMA["static_slots"]
    serves_many_at_once(Instance(home, SMALLEST.replace(f"static_slots = {slots}", f"static_slots = {VOLUMES // 3}")))


def serves_many_at_once(instance):
    """Each of some clients writes to a volume of its own, and all take their snapshots at the same time."""
    home = instance.home
    instance.start()
    failures = []

    def work(number):
        try:
            with Client(home) as client:
                name = f"v{number}"
                client.control("create", name=name, size=SIZE, block_size=BLOCK, timeout=PATIENCE_S)
                with client.open(name) as volume:
                    for step in range(3):
                        volume.write(step * BLOCK + 1024, bytes([number]) * 65536)
                        together.wait(PATIENCE_S)
                        client.control("snapshot", name=name, snapshot=f"{name}-s{step}", timeout=PATIENCE_S)
                        volume.write(step * BLOCK + 4096, bytes([step]) * 4096)
                    volume.flush()
                    assert volume.read(2 * BLOCK + 4096, 4096) == bytes([2]) * 4096
                    assert volume.read(BLOCK + 8192, 512) == bytes([number]) * 512
        except BaseException as failure:
            failures.append(failure)
            together.abort()

    together = threading.Barrier(VOLUMES)
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(VOLUMES)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not failures and not any(thread.is_alive() for thread in threads), failures
    finally:
        instance.finish()
