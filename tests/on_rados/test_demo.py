# SPDX-License-Identifier: Apache-2.0
"""make demo BACKEND=rados: the whole story on a cluster of its own, which is gone afterwards."""
import glob
import sys

import pytest
from support import run


@pytest.mark.slow
def test_the_demo_ends_well_and_leaves_nothing(tmp_path):
    image = str(tmp_path / "fs.raw")
    run("mke2fs", "-q", "-t", "ext4", image, "48M")
    before = set(glob.glob("/tmp/demo-*"))
    told = run(sys.executable, "-m", "tools.demo", "--backend", "rados", "--image", image, "--clones", "3",
               timeout=280).stdout
    assert "objects of data (unique)" in told
    assert set(glob.glob("/tmp/demo-*")) <= before
