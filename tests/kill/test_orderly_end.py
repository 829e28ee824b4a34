# SPDX-License-Identifier: Apache-2.0
"""Nothing acknowledged is lost when an instance is ended in order, flushed or not, whatever came before; and where it
would be, the end is refused."""
import contextlib
import os
import random
import signal
import subprocess
import time

import pytest
from support import BIN, Instance, libnbd, processes_of, wait_until

from xseg._native import lib
from xseg.segment import Segment, name_for

pytest_plugins = ["kill_fixtures"]

SIZE = 64 << 20
PLACE = 4096
QUICK = "[supervisor]\ndeaths = 2\nback_off_ms = 50\n"


class Written:
    """A volume `base` and a clone of it, written to by NBD clients that never flush, and what they must hold."""

    def __init__(self, instance, keep=True):
        self.instance, self.dice, self.image = instance, random.Random(7), {"base": {}, "clone": {}}
        instance.vlmc("create", "base", "--size", str(SIZE))
        self.write("base", 8)
        instance.vlmc("snapshot", "base", "golden")
        instance.vlmc("clone", "golden", "clone")
        self.image["clone"] = dict(self.image["base"])
        if keep:
            for name in self.image:
                instance.vlmc("open", name)
        for name in self.image:
            self.write(name, 24)

    def connected(self, name):
        handle = libnbd().NBD()
        handle.set_export_name(name)
        handle.connect_unix(os.path.join(self.instance.home, "run", "nbd.sock"))
        return handle

    def put(self, handle, name, count):
        for _ in range(count):
            place, data = self.dice.randrange(SIZE // PLACE), self.dice.randbytes(PLACE)
            handle.pwrite(data, place * PLACE)
            self.image[name][place] = data

    def write(self, name, count):
        """By a client that leaves in order."""
        handle = self.connected(name)
        self.put(handle, name, count)
        handle.shutdown()

    def check(self):
        for name, image in self.image.items():
            handle = self.connected(name)
            for place, data in image.items():
                assert bytes(handle.pread(PLACE, place * PLACE)) == data, f"{name}: what was written at {place * PLACE}"
            handle.shutdown()


def supervisor_of(instance):
    return processes_of(instance.home, b"tools.supervisor")


def stop(instance):
    instance.disconnect()
    instance.archipelago("stop")
    assert processes_of(instance.home) + supervisor_of(instance) == []
    assert not Segment.exists(name_for(instance.home))


def kill_all(instance):
    for pid in supervisor_of(instance) + processes_of(instance.home):
        with contextlib.suppress(ProcessLookupError):       # a spare ends with its supervisor
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(instance.home) + supervisor_of(instance), "all are dead")


def give_up(instance, role):
    """Kills a role's process until it is not started again."""
    def failed():
        peer = instance.status()[role]
        if peer["pid"] and peer["state"] == "running":
            os.kill(peer["pid"], signal.SIGKILL)
        return peer["state"] == "failed"
    wait_until(failed, f"{role} is given up", seconds=60)


# --- ways to end: what comes before, and the end


def after_the_client_left(instance, written):
    stop(instance)


def while_clients_are_connected(instance, written):
    handle = written.connected("clone")
    written.put(handle, "clone", 8)
    stop(instance)


def after_stops_of(*roles):
    def end(instance, written):
        for role in roles:
            instance.archipelago("stop", role)
        stop(instance)
    return end


def after_giving_up(role):
    def end(instance, written):
        give_up(instance, role)
        stop(instance)
    return end


def after_all_were_killed(instance, written):
    kill_all(instance)
    stop(instance)


def after_all_were_killed_and_started(instance, written):
    kill_all(instance)
    instance.start()
    stop(instance)


def after_the_supervisor_was_killed(instance, written):
    for pid in supervisor_of(instance):
        os.kill(pid, signal.SIGKILL)
    instance.kill("mapper")
    instance.killed.clear()
    stop(instance)


def by_sigterm_to_the_supervisor(instance, written):
    for pid in supervisor_of(instance):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not supervisor_of(instance), "it has ended", seconds=60)
    assert processes_of(instance.home) == [] and not Segment.exists(name_for(instance.home))


def by_sigterm_to_all(instance, written):
    """As a system does that goes down and knows of no order."""
    for pid in supervisor_of(instance) + processes_of(instance.home):
        with contextlib.suppress(ProcessLookupError):       # a spare ends with its supervisor
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not supervisor_of(instance), "it has ended", seconds=60)
    assert processes_of(instance.home) == [] and not Segment.exists(name_for(instance.home))


def by_force(instance, written):
    instance.archipelago("stop", "vlmc")
    instance.disconnect()
    assert "lost" not in instance.archipelago("stop", "--force").stdout


def while_vlmc_is_frozen(instance, written):
    os.kill(instance.pid("vlmc"), signal.SIGSTOP)
    stop(instance)


WAYS = {"after_the_client_left": after_the_client_left, "while_clients_are_connected": while_clients_are_connected,
        "stop_vlmc": after_stops_of("vlmc"), "stop_mapper": after_stops_of("mapper"),
        "stop_blockerm": after_stops_of("blockerm"), "stop_all_one_by_one": after_stops_of("nbd", "vlmc", "mapper"),
        "mapper_given_up": after_giving_up("mapper"), "vlmc_given_up": after_giving_up("vlmc"),
        "after_all_were_killed": after_all_were_killed,
        "after_all_were_killed_and_started": after_all_were_killed_and_started,
        "after_the_supervisor_was_killed": after_the_supervisor_was_killed,
        "by_sigterm_to_the_supervisor": by_sigterm_to_the_supervisor, "by_sigterm_to_all": by_sigterm_to_all,
        "by_force": by_force, "while_vlmc_is_frozen": while_vlmc_is_frozen}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_acknowledged_is_lost(supervised, layout, way):
    instance = supervised(f'layout = "{layout}"\n{QUICK}', patient=False)
    written = Written(instance)
    WAYS[way](instance, written)
    instance.start()
    written.check()


@pytest.mark.parametrize("clients_return", [False, True])
def test_nothing_is_lost_when_the_endpoint_was_killed(supervised, layout, clients_return):
    instance = supervised(f'layout = "{layout}"')
    written = Written(instance, keep=False)
    handle = written.connected("clone")
    written.put(handle, "clone", 8)
    before = instance.pid("nbd")
    os.kill(before, signal.SIGKILL)
    if clients_return:
        written.write("clone", 8)
    wait_until(lambda: instance.status()["nbd"]["pid"] not in (None, before), "it runs again")
    stop(instance)
    instance.start()
    written.check()


def test_what_a_dead_endpoint_had_open_is_free_when_its_successor_is_ready(instance):
    instance.vlmc("create", "v", "--size", "1M")
    handle = libnbd().NBD()
    handle.connect_uri(instance.nbd_uri("v"))
    instance.kill("nbd")
    if instance.status()["mapper"]["state"] == "running":
        said = instance.vlmc("remove", "v", check=False)
        assert said.returncode == 1 and "nbd (which died: it is closed when that runs again" in said.stderr
    instance.restart("nbd")
    instance.vlmc("remove", "v")


def test_nothing_is_lost_without_a_supervisor(instance):
    written = Written(instance)
    instance.archipelago("stop", "vlmc")
    stop(instance)
    instance.start()
    written.check()


# --- where it cannot be done


@pytest.fixture
def unsaved(supervised, layout):
    """(an instance whose data cannot be synced, what was written to it before)"""
    instance = supervised(f'layout = "{layout}"')
    written = Written(instance)
    instance.archipelago("route", "--insert", "broken", "--before", "blockerb", "--type", "error",
                         "--option", "ops=sync")
    return instance, written


def test_an_end_that_would_lose_writes_is_refused_and_the_instance_goes_on(unsaved):
    instance, written = unsaved
    said = instance.archipelago("stop", check=False)
    assert said.returncode == 1 and "'base', 'clone'" in said.stderr and "--force" in said.stderr
    assert {peer["state"] for peer in instance.status().values()} == {"running"}
    written.check()
    os.kill(instance.pid("vlmc"), signal.SIGKILL)           # it is watched as before
    wait_until(lambda: instance.status()["vlmc"]["state"] == "running", "it runs again")
    instance.archipelago("route", "--remove", "broken")
    stop(instance)
    instance.start()
    written.check()


def test_sigterm_leaves_what_cannot_be_saved_for_the_next_start(unsaved):
    instance, written = unsaved
    os.kill(*supervisor_of(instance), signal.SIGTERM)
    wait_until(lambda: not supervisor_of(instance), "it has ended", seconds=60)
    assert processes_of(instance.home) == [] and Segment.exists(name_for(instance.home))
    instance.start()
    written.check()
    instance.archipelago("route", "--remove", "broken")
    stop(instance)
    instance.start()
    written.check()


def test_force_loses_what_cannot_be_saved_and_says_so(unsaved):
    instance, written = unsaved
    said = instance.archipelago("stop", "--force")
    assert "lost: what was written to 'base', 'clone'" in said.stdout
    assert processes_of(instance.home) == [] and not Segment.exists(name_for(instance.home))
    instance.start()
    assert {volume["name"] for volume in instance.vlmc_json("list")} == {"base", "golden", "clone"}


def test_an_end_that_takes_too_long_is_refused(supervised, layout):
    instance = supervised(f'layout = "{layout}"\n[supervisor]\nstop_s = 2\n', patient=False)
    written = Written(instance)
    instance.archipelago("route", "--insert", "slow", "--before", "blockerb", "--type", "delay", "--option", "ms=60000",
                         "--option", "ops=sync")
    said = instance.archipelago("stop", check=False)
    assert said.returncode == 1 and "stop_s" in said.stderr and "'base'" in said.stderr
    written.check()
    instance.archipelago("stop", "--force")


def test_a_segment_of_another_build_is_neither_replaced_nor_stopped_over(instance):
    written = Written(instance)
    instance.disconnect()
    kill_all(instance)
    with Segment.of_home(instance.home) as segment:
        segment.c.header.version = lib.XSEG_VERSION + 1
        for verb in ("start", "stop"):
            said = instance.archipelago(verb, check=False)
            assert said.returncode == 1 and "--force" in said.stderr and "programs that started it" in said.stderr
        segment.c.header.version = lib.XSEG_VERSION
    stop(instance)
    instance.start()
    written.check()


def test_a_stop_that_is_killed_is_gone_on_with(supervised, layout):
    """At any moment: the segment stays until nothing is left in it."""
    instance = supervised(f'layout = "{layout}"')
    written = Written(instance)
    for wait_s in (0.1, 0.2, 0.3, 0.4):
        instance.disconnect()
        command = subprocess.Popen([os.path.join(BIN, "archipelago"), "--home", instance.home, "stop"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait_s)                  # no condition: any moment will do
        command.kill()
        command.wait()
        kill_all(instance)
        instance.start()
        written.check()
        instance.vlmc("open", "base")
        written.write("base", 8)


def test_deaths_meanwhile_only_delay_the_end(supervised, layout):
    instance = supervised(f'layout = "{layout}"')
    written = Written(instance)
    dice = random.Random(layout)
    for _ in range(3):
        instance.disconnect()
        command = subprocess.Popen([os.path.join(BIN, "archipelago"), "--home", instance.home, "stop"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2):
            time.sleep(dice.uniform(0.1, 0.5))          # no condition: any moment will do
            for pid in processes_of(instance.home)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert command.wait(60) == 0, command.stderr.read()
        command.stderr.close()
        assert processes_of(instance.home) == [] and not Segment.exists(name_for(instance.home))
        instance.start()
        written.check()
        instance.vlmc("open", "base")
        written.write("base", 8)


def test_what_a_restarted_mapper_has_not_read_yet_is_closed_with_the_rest(supervised, layout):
    """It reads what is open when somebody asks for it, from a store that is slow here; it dies amid that, and again."""
    instance = supervised(f'layout = "{layout}"')
    written = Written(instance)
    instance.archipelago("route", "--insert", "slow", "--before", "blockerm", "--type", "delay", "--option", "ms=300")
    for _ in range(3):
        instance.disconnect()
        before = instance.pid("mapper")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda before=before: instance.status()["mapper"]["pid"] not in (None, before), "it is restarted")
    stop(instance)
    instance.start()
    written.check()


def test_an_end_that_was_killed_does_not_keep_volumes_closed(instance):
    instance.vlmc("create", "v", "--size", "1M")
    lib.export_closing(instance.client.segment.c, 1)
    assert "is being stopped" in instance.vlmc("open", "v", check=False).stderr
    assert "it is being stopped" in instance.archipelago("status").stdout
    assert "already running" in instance.archipelago("start", "--unsupervised", check=False).stderr
    instance.vlmc("open", "v")


def test_a_foreground_instance_ends_in_order_by_sigterm(home, layout):
    instance = Instance(home, f'layout = "{layout}"')
    child = subprocess.Popen([os.path.join(BIN, "archipelago"), "--home", home, "start", "--foreground"],
                             stderr=subprocess.DEVNULL)
    wait_until(lambda: {peer["state"] for peer in instance.status().values()} == {"running"}, "it runs")
    written = Written(instance)
    instance.archipelago("stop", "mapper")
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0
    instance.start()
    written.check()
    instance.finish()
