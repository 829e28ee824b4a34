# SPDX-License-Identifier: Apache-2.0
"""Somebody removes the folder of a store below a running instance: nothing is called durable after that."""
import errno
import os
import shutil

import pytest

from xseg.errors import XsegError


def remove(folder, contents_only):
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)
    if not contents_only:
        os.rmdir(folder)


@pytest.mark.parametrize("contents_only", [False, True])
def test_flushes_fail_after_the_store_was_removed(instance, contents_only):
    instance.client.control("create", name="v", size=1 << 30)
    volume = instance.client.open("v")
    volume.write(0, b"there")
    volume.flush()
    remove(os.path.join(instance.home, "data"), contents_only)
    volume.write(0, b"gone")
    for _ in range(2):
        with pytest.raises(XsegError) as failure:
            volume.flush()
        assert failure.value.errno == errno.ENODEV
    with pytest.raises(XsegError):
        volume.write(0, b"gone", fua=True)
    assert "the store of blockerb" in instance.archipelago("status", check=False).stdout
    instance.archipelago("stop", "--force")


def test_nothing_is_made_after_the_map_was_removed(instance):
    instance.client.control("create", name="v", size=1 << 30)
    volume = instance.client.open("v")
    remove(os.path.join(instance.home, "map"), False)
    volume.write(0, b"x")
    with pytest.raises(XsegError):
        volume.flush()
    with pytest.raises(XsegError):
        instance.client.control("create", name="w", size=1 << 30)
    instance.archipelago("stop", "--force")
