# SPDX-License-Identifier: Apache-2.0
"""An instance of a user who is not root: he has all of it, and root keeps out of its memory."""
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile

import pytest
from strangers import STRANGER, needs_root
from support import Instance

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMAND = "import sys; from tools.{} import main; sys.exit(main(sys.argv[1:]))"
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
CONFIG = '[segment]\nframes = 64\nbuffers = [512, 64, 24]\n[peers.nbd]\nsocket_mode = "0600"\n'
pytestmark = needs_root


class User:
    """What he does in a home of his own."""

    def __init__(self, python, home):
        self.python, self.home = python, home
        self.env = {"PATH": "/usr/bin:/bin", "ARCHIPELAGO_HOME": home,
                    "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}

    def run(self, command, *words):
        package = {"xseg": "xsegtool"}.get(command, command)
        return subprocess.run([self.python, "-P", "-c", COMMAND.format(package), *words], env=self.env, cwd="/",
                              user=STRANGER, group=STRANGER, extra_groups=[], capture_output=True, text=True,
                              timeout=60)


@pytest.fixture
def user():
    """With an interpreter that he may run, and code that he may read."""
    above = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    os.chown(above, STRANGER, STRANGER)
    made = User("", os.path.join(above, "home"))
    for python in (sys.executable, shutil.which(VERSION, path="/usr/bin:/usr/local/bin")):
        made.python = python or made.python
        try:
            if made.run("archipelago", "--help").returncode == 0:
                break
        except OSError:
            continue
    else:
        shutil.rmtree(above)
        pytest.skip("no other user can run this code from where it is")
    yield made
    made.run("archipelago", "stop", "--force")
    shutil.rmtree(above)


def test_a_user_has_an_instance_of_his_own_and_root_does_not_join_it(user):
    os.makedirs(user.home)
    with open(f"{user.home}/archipelago.toml", "w", encoding="ascii") as file:
        file.write(CONFIG)
    os.chown(user.home, STRANGER, STRANGER)             # the file is root's: that will do
    done = user.run("archipelago", "start")
    assert done.returncode == 0, done.stderr
    for words in (["create", "v", "--size", "1M"], ["snapshot", "v", "s"], ["export", "v", f"{user.home}/v.raw"]):
        done = user.run("vlmc", *words)
        assert done.returncode == 0, done.stderr
    mine = Instance(user.home)
    for words in (["archipelago", "status"], ["archipelago", "stop"], ["vlmc", "list"], ["xseg", "report"]):
        said = mine.run(*words, check=False)
        assert said.returncode == 1 and pwd.getpwuid(STRANGER).pw_name in said.stderr
        assert "run this as that user" in said.stderr
    done = user.run("archipelago", "stop")
    assert done.returncode == 0 and "stopped" in done.stdout, done


def test_a_user_may_not_give_the_socket_away_and_is_told_the_option(user):
    os.makedirs(user.home)
    with open(f"{user.home}/archipelago.toml", "w", encoding="ascii") as file:
        file.write(CONFIG + "socket_owner = 1234\n")
    os.chown(user.home, STRANGER, STRANGER)
    done = user.run("archipelago", "start")
    assert done.returncode == 1 and "socket_owner" in done.stderr, done
