# SPDX-License-Identifier: Apache-2.0
"""tests/kill/test_orderly_end.py on RADOS: ways in which the end lost writes there, on one layout each."""
import shutil
import sys
import tempfile

import pytest
from support import Instance
from test_orderly_end import QUICK, WAYS, Written

from tools import cluster as tool
from xseg.segment import Segment, name_for


@pytest.mark.parametrize(("way", "how"), [
    ("after_the_client_left", "colocated"), ("while_clients_are_connected", "separate"), ("stop_vlmc", "colocated"),
    ("stop_blockerm", "separate"), ("mapper_given_up", "separate"), ("after_all_were_killed", "colocated"),
    ("by_sigterm_to_the_supervisor", "separate"), ("by_sigterm_to_all", "colocated")])
def test_nothing_acknowledged_is_lost(cluster, way, how):
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    instance = Instance(home, f'layout = "{how}"\n{QUICK}' + tool.instance_config(cluster.conf, namespace=way),
                        supervised=True)
    instance.start()
    try:
        written = Written(instance)
        WAYS[way](instance, written)
        instance.start()
        written.check()
    finally:
        if sys.exc_info()[0]:
            print(instance.logs())
        instance.finish()
        Segment.unlink(name_for(home))
        shutil.rmtree(home, ignore_errors=True)
