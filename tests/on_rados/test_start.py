# SPDX-License-Identifier: Apache-2.0
"""What keeps blocker-rados from starting is said in one sentence, in bounded time."""
import os
import subprocess
import sys

import pytest
from loops import peers

from xseg.errors import XsegError


def refusal(**options):
    with pytest.raises(XsegError) as raised, peers(("b", "blocker-rados", options)):
        pass
    return str(raised.value)


def test_a_pool_is_needed(cluster):
    assert "option pool is missing" in refusal(conf=cluster.conf)


def test_a_pool_that_is_not_there(cluster):
    assert "the cluster has no pool nowhere" in refusal(conf=cluster.conf, pool="nowhere")


def test_a_conf_that_is_not_there():
    assert "/nonexistent/ceph.conf does not exist" in refusal(conf="/nonexistent/ceph.conf", pool="volumes")


def test_a_conf_that_is_none(tmp_path):
    conf = tmp_path / "ceph.conf"
    conf.write_text("[global\nmon host = : :\n")
    assert "ceph.conf" in refusal(conf=str(conf), pool="volumes", connect_timeout_s=2)


def test_a_wrong_key(cluster, tmp_path):
    keyring = tmp_path / "keyring"
    keyring.write_text("[client.admin]\nkey = AQBvaBBZAAAAABAA9VHWBBfKy1xHpLKRRIIzZA==\n")
    said = refusal(conf=cluster.conf, pool="volumes", keyring=str(keyring))
    assert "refuses the user admin: its key is wrong" in said and str(keyring) in said


def test_a_user_without_a_key(cluster):
    assert "refuses the user nobody" in refusal(conf=cluster.conf, pool="volumes", user="nobody")


def test_monitors_that_do_not_answer(cluster, tmp_path):
    conf = tmp_path / "ceph.conf"
    conf.write_text("[global]\nmon host = [v2:127.0.0.1:1,v1:127.0.0.1:2]\nkeyring = " + cluster.keyring + "\n")
    said = refusal(conf=str(conf), pool="volumes", connect_timeout_s=2)
    assert "no monitor of the cluster answered within 2 s" in said


def test_a_user_who_may_not_write(cluster):
    path = os.path.join(cluster.folder, "reader.keyring")
    cluster.run("ceph", "auth", "get-or-create", "client.reader", "mon", "allow r", "osd", "allow r", "-o", path)
    said = refusal(conf=cluster.conf, pool="volumes", user="reader", keyring=path)
    assert "the user reader may not write to the pool volumes" in said


def test_a_machine_without_librados(tmp_path):
    (tmp_path / "librados.so.2").write_bytes(b"")
    code = ("from loops import peers\nfrom xseg.errors import XsegError\ntry:\n"
            "    with peers(('b', 'blocker-rados', {'pool': 'volumes'})): pass\n"
            "except XsegError as failure:\n    print(failure)\n")
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert "librados.so.2 is not installed (on Debian: apt-get install librados2)" in done.stdout, done.stderr
