# SPDX-License-Identifier: Apache-2.0
"""What tests/kill/test_in_doubt.py asks, with everything in RADOS behind a slow filter."""
import os
import shutil
import tempfile

import pytest
from kill_fixtures import PATIENT
from support import Instance
from test_in_doubt import SEED, SLOW, Deaths

from tools import cluster as tool
from xseg.segment import Segment, name_for

KILLS = int(os.environ.get("ARCHIPELAGO_KILLS", "6"))


@pytest.mark.parametrize("pipeline, ms", [("colocated", 5), ("separate", 20)])
def test_nothing_in_doubt_lands_on_rados(cluster, pipeline, ms):
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    config = SLOW % (pipeline, ms) + tool.instance_config(cluster.conf, namespace=f"doubt-{pipeline}") + PATIENT
    instance = Instance(home, config, supervised=True)
    try:
        instance.start()
        Deaths(instance, pipeline, ms, SEED).run(KILLS)
    finally:
        instance.finish()
        Segment.unlink(name_for(home))
        shutil.rmtree(home, ignore_errors=True)
