# SPDX-License-Identifier: Apache-2.0
"""A private Ceph cluster for tests, demos and measurements: python -m tools.cluster VERB

It lives in a folder and on 127.0.0.1, shares nothing with a real cluster of this machine (neither
/etc/ceph nor /var/lib/ceph nor systemd), and is up within some seconds. It installs nothing: what is
missing is named. One monitor, N OSDs, a manager only if asked for (I/O needs none).

    up [--osds 1] [--store bluestore|memstore] [--mgr] [--pool NAME]...     makes and starts a cluster
    down, start             stops its daemons and keeps the data; starts them again
    destroy                 kills them and removes the folder
    pool NAME [--size N] [--pgs N] [--quota BYTES]
    osd-kill N, osd-start N
    status                  ceph -s
    conf                    path of its ceph.conf

The folder is --folder, or ARCHIPELAGO_CLUSTER, or /tmp/archipelago-ceph. Memstore keeps everything in
memory and loses it when an OSD is killed. Block files are sparse: they take what is written.
"""
from __future__ import annotations

import argparse
import errno
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from xseg import ours
from xseg.errors import Exists, Invalid, NotFound, TimedOut, XsegError

FOLDER = os.environ.get("ARCHIPELAGO_CLUSTER", "/tmp/archipelago-ceph")
PROGRAMS = {"ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "ceph": "ceph-common",
            "ceph-authtool": "ceph-common", "monmaptool": "ceph-common"}     # -> Debian's package
STORES = ("bluestore", "memstore")
PORTS = 200                         # a cluster takes so many from its first on
BLOCK_SIZE = 20 << 30               # bytes of an OSD's sparse block file
MEMSTORE_SIZE = 6 << 30
MEMORY_TARGET = 939524096           # bytes; the least that Ceph takes
WAIT_S = 120.0
COMMAND_S = 60.0
STOP_S = 15.0

CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port},v1:127.0.0.1:{port1}]
mon initial members = a
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind port min = {osd_port}
ms bind port max = {last_port}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {folder}/admin.keyring
run dir = {folder}/run
pid file = {folder}/run/$name.pid
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
crash dir = {folder}/crash
log to syslog = false
log to stderr = false
# small pools on one host
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon allow pool delete = true
mon max pg per osd = 1000
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
# all OSDs are on one host: a hung one is only marked down if single OSDs may report it
osd heartbeat interval = 1
osd heartbeat grace = 4
mon osd reporter subtree level = osd
mon osd min down reporters = 1
mon osd adjust heartbeat grace = false
# a nearly full scratch disk must not stop tests
mon data avail warn = 2
mon data avail crit = 1
mon osd full ratio = .96
mon osd backfillfull ratio = .95
mon osd nearfull ratio = .94
[client]
admin socket =
log file =
[mon]
# a new map every 50 ms at most, not every second: all that needs one is far quicker
paxos propose interval = {propose}
mon data = {folder}/data/mon.$id
keyring = {folder}/data/mon.$id/keyring
[mgr]
mgr data = {folder}/data/mgr.$id
keyring = {folder}/data/mgr.$id/keyring
mgr initial modules =
[osd]
osd data = {folder}/data/osd.$id
keyring = {folder}/data/osd.$id/keyring
osd objectstore = {store}
osd memory target = {memory}
bluestore block size = {block_size}
bluestore block create = true
# disks that call themselves rotational would wait seconds at each of these
osd snap trim sleep = 0.001
osd delete sleep = 0.001
osd recovery sleep = 0.001
# threads that stop poll so often: 250 ms doubles the time of making and starting an OSD
bdev aio poll ms = 10
memstore device bytes = {memstore_size}
"""
# A single OSD that was stopped for longer than its own read lease (0.8 x the heartbeat grace) may never
# serve what it was asked then: "waiting for readable". It has nobody to lease from.
ALONE = "osd pool default read lease ratio = 100\n"
KEEP_MEMSTORE = "# memstore: written out on a clean stop\nosd fast shutdown = false\n"


@dataclass
class Shape:
    """What a cluster was made as; kept in its folder."""

    osds: int = 1
    store: str = "bluestore"
    mgr: bool = False
    propose_s: float = 0.05         # the monitor's paxos propose interval; Ceph's default is 1
    port: int = 0
    fsid: str = ""


def missing() -> list[str]:
    """Debian packages that are needed and not installed."""
    return sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})


def wait_until(true: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """The first true value of `true`. TimedOut, saying `what`."""
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            raise TimedOut(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return value


def end(process: int, number: int) -> bool:
    """Sends a process (a pidfd) a signal. Whether it is gone within STOP_S, with its last thread: a killed one has
    no command line any more while it still holds its files, and the locks on them.
    """
    try:
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(STOP_S * 1000))


def reason_in(text: str) -> str:
    """Why a program of Ceph failed: its last line, or, if it crashed, what it did not expect."""
    lines = text.strip().splitlines() or ["failed"]
    return next((line for line in lines if "ceph_assert" in line or "ceph_abort" in line), lines[-1])


def free_ports() -> int:
    """A first port of a range that nobody seems to use now."""
    for _ in range(100):
        port = random.randrange(20000, 60000, PORTS)
        try:
            for number in (port, port + 1, port + 10):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
            return port
        except OSError:
            continue
    raise XsegError(errno.EADDRINUSE, "no free range of ports was found")


class Cluster:
    """The cluster in a folder. All methods wait until what they do is done."""

    def __init__(self, folder: str = FOLDER) -> None:
        self.folder = os.path.realpath(folder)
        self.conf = os.path.join(self.folder, "ceph.conf")
        self.keyring = os.path.join(self.folder, "admin.keyring")
        self.shape = Shape()
        if os.path.exists(self._path("shape.json")):
            with open(self._path("shape.json"), encoding="utf-8") as file:
                self.shape = Shape(**json.load(file))

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    # --- commands

    def run(self, *words: Any, timeout: float = COMMAND_S) -> str:
        """Runs a program of Ceph against this cluster; what it printed. XsegError: it failed, and why."""
        command = [str(word) for word in words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                                  env={**os.environ, "CEPH_CONF": self.conf})
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{' '.join(command)}: no answer within {timeout:g} s") from None
        if done.returncode:
            raise XsegError(errno.EIO, f"{' '.join(command)}: {reason_in(done.stderr)}")
        return done.stdout

    def ceph(self, *words: Any, timeout: float = COMMAND_S) -> Any:
        """A command to the monitors; its answer out of JSON, or as text."""
        text = self.run("ceph", "--connect-timeout", "20", "-f", "json", *words, timeout=timeout)
        try:
            return json.loads(text)
        except ValueError:
            return text

    def daemon(self, name: str, *words: str) -> Any:
        """A command to a daemon's admin socket, such as "osd.0", "perf", "dump"."""
        return json.loads(self.run("ceph", "--admin-daemon", self._path("run", f"{name}.asok"), *words))

    # --- daemons

    def pid(self, name: str) -> int:
        """Process of a daemon, such as "osd.0"; 0 if it does not run."""
        try:
            with open(self._path("run", f"{name}.pid"), encoding="ascii") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return pid if self.conf.encode() in file.read() else 0
        except (OSError, ValueError):
            return 0

    def daemons(self) -> list[str]:
        """Names of all its daemons, in the order in which they are to be stopped."""
        managers = ["mgr.x"] if self.shape.mgr else []
        return [*(f"osd.{n}" for n in range(self.shape.osds)), *managers, "mon.a"]

    def kill(self, name: str, number: int) -> None:
        """Sends a daemon a signal. NotFound: it does not run."""
        pid = self.pid(name)
        if not pid:
            raise NotFound(f"{name} of the cluster in {self.folder} does not run")
        os.kill(pid, number)

    def start_daemon(self, name: str) -> None:
        """Starts one; it detaches by itself."""
        kind, number = name.split(".")
        self.run(f"ceph-{kind}", "-i", number, "-c", self.conf)

    def stop_daemon(self, name: str, number: int = signal.SIGTERM) -> None:
        """Ends one, and waits until it is gone with its last thread, and has let go of its files and locks;
        kills it after STOP_S. TimedOut: it lives on."""
        pid = self.pid(name)
        if not pid:
            return
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            ended = end(process, number) or end(process, signal.SIGKILL)
        finally:
            os.close(process)
        if not ended:
            raise TimedOut(f"{name} of the cluster in {self.folder} does not end, not even killed")

    # --- making it

    def up(self, pools: tuple[str, ...] = (), **shape: Any) -> Cluster:
        """Makes and starts a new cluster of a Shape's members. Exists; NotFound: packages are missing."""
        if lacking := missing():
            raise NotFound("a Ceph cluster needs packages that are not installed: "
                           f"apt-get install {' '.join(lacking)}")
        if os.path.exists(self.conf):
            raise Exists(f"{self.folder} holds a cluster: start it, or destroy it first")
        self.shape = Shape(**{"port": free_ports(), "fsid": str(uuid.uuid4()), **shape})
        if self.shape.store not in STORES:
            raise Invalid(f"there is no store {self.shape.store}; there are: {', '.join(STORES)}")
        for name in ("run", "log", "crash", "data"):
            os.makedirs(self._path(name), exist_ok=True)
        for name in self.daemons():
            os.makedirs(self._path("data", name), exist_ok=True)
        self._write_files()
        self._make_monitor()
        self.start_daemon("mon.a")
        if self.shape.mgr:
            self.start_daemon("mgr.x")
        with ThreadPoolExecutor(self.shape.osds) as pool:       # making one sleeps more than it works
            list(pool.map(self._make_osd, range(self.shape.osds)))
        self.wait_clean()
        for name in pools:
            self.pool(name)
        return self

    def _write_files(self) -> None:
        with open(self._path("shape.json"), "w", encoding="utf-8") as file:
            json.dump(asdict(self.shape), file)
        port = self.shape.port
        text = CONF.format(folder=self.folder, fsid=self.shape.fsid, port=port, port1=port + 1,
                           osd_port=port + 10, last_port=port + PORTS - 1, store=self.shape.store,
                           memory=MEMORY_TARGET, block_size=BLOCK_SIZE, memstore_size=MEMSTORE_SIZE,
                           propose=self.shape.propose_s)
        with open(self.conf, "w", encoding="utf-8") as file:
            file.write(text + (KEEP_MEMSTORE if self.shape.store == "memstore" else "")
                       + (ALONE if self.shape.osds == 1 else ""))

    def _keyring(self, path: str, name: str, **caps: str) -> None:
        words = [word for service, cap in caps.items() for word in ("--cap", service, cap)]
        self.run("ceph-authtool", "-C", path, "-g", "-n", name, *words)

    def _make_monitor(self) -> None:
        """All keys go into what the monitor is made from: nothing has to be asked of it later."""
        boot = self._path("boot.keyring")
        self._keyring(boot, "mon.", mon="allow *")
        everything = {"mon": "allow *", "osd": "allow *", "mgr": "allow *"}
        made = [(self.keyring, "client.admin", everything)]
        made += [(self._path("data", f"osd.{n}", "keyring"), f"osd.{n}",
                  {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"})
                 for n in range(self.shape.osds)]
        if self.shape.mgr:
            made.append((self._path("data", "mgr.x", "keyring"), "mgr.x",
                         {"mon": "allow profile mgr", "osd": "allow *"}))
        for path, name, caps in made:
            self._keyring(path, name, **caps)
            self.run("ceph-authtool", boot, "--import-keyring", path)
        port = self.shape.port
        self.run("monmaptool", "--create", "--clobber", "--fsid", self.shape.fsid, "--addv", "a",
                 f"[v2:127.0.0.1:{port},v1:127.0.0.1:{port + 1}]", self._path("monmap"))
        self.run("ceph-mon", "--mkfs", "-i", "a", "-c", self.conf, "--monmap", self._path("monmap"),
                 "--keyring", boot)

    def _make_osd(self, number: int) -> None:
        identity = str(uuid.uuid4())
        self.ceph("osd", "new", identity, number)
        self.run("ceph-osd", "-i", number, "-c", self.conf, "--mkfs", "--osd-uuid", identity)
        self.start_daemon(f"osd.{number}")

    # --- using it

    def wait_clean(self, osds: int | None = None) -> None:
        """Waits until so many OSDs (all) are up and, with a manager, all placement groups clean."""
        wanted = self.shape.osds if osds is None else osds

        def clean() -> bool:
            try:
                status = self.ceph("status")
            except XsegError:
                return False
            if status["osdmap"]["num_up_osds"] < wanted:
                return False
            groups = status["pgmap"]
            return not self.shape.mgr or (status["mgrmap"]["available"] and groups["num_pgs"] == sum(
                state["count"] for state in groups["pgs_by_state"] if state["state_name"] == "active+clean"))

        wait_until(clean, "all OSDs are up and all placement groups clean")

    def pool(self, name: str, size: int = 1, pgs: int = 32, quota: int = 0) -> None:
        """Makes a replicated pool of so many copies; quota in bytes, 0: none."""
        self.ceph("osd", "pool", "create", name, pgs, pgs, "replicated")
        sure = ("--yes-i-really-mean-it",) if size == 1 else ()
        self.ceph("osd", "pool", "set", name, "size", size, *sure)
        self.ceph("osd", "pool", "set", name, "min_size", 1)
        self.ceph("osd", "pool", "application", "enable", name, "archipelago")
        if quota:
            self.ceph("osd", "pool", "set-quota", name, "max_bytes", quota)

    def remove_pool(self, name: str) -> None:
        """Removes a pool with all it holds."""
        self.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")

    def osd_kill(self, number: int) -> None:
        """kill -9."""
        self.stop_daemon(f"osd.{number}", signal.SIGKILL)

    def osd_start(self, number: int) -> None:
        """Starts an OSD that was stopped or killed, and waits until all are up."""
        self.start_daemon(f"osd.{number}")
        self.wait_clean()

    def down(self) -> None:
        """Stops all daemons; the data stay. OSDs first: one without a monitor waits for it."""
        with ThreadPoolExecutor(self.shape.osds) as pool:
            list(pool.map(self.stop_daemon, [name for name in self.daemons() if name.startswith("osd.")]))
        for name in self.daemons():
            self.stop_daemon(name)

    def start(self) -> None:
        """Starts what down() has stopped."""
        if not os.path.exists(self.conf):
            raise NotFound(f"there is no cluster in {self.folder}")
        for name in reversed(self.daemons()):
            if not self.pid(name):
                self.start_daemon(name)
        self.wait_clean()

    def destroy(self) -> None:
        """Kills its daemons and removes the folder. Nothing if there is none."""
        for name in self.daemons() if os.path.exists(self.conf) else ():
            if self.pid(name):
                self.kill(name, signal.SIGCONT)
                self.stop_daemon(name, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def up(folder: str, pools: tuple[str, ...] = ("volumes", "maps"), **shape: Any) -> str:
    """A new cluster with these pools; the path of its ceph.conf."""
    return Cluster(folder).up(pools, **shape).conf


def instance_config(conf: str, data_pool: str = "volumes", map_pool: str = "maps", namespace: str = "",
                    **options: Any) -> str:
    """Text of an archipelago.toml whose two blockers keep everything in that cluster."""
    text = ""
    for role, pool in (("blockerb", data_pool), ("blockerm", map_pool)):
        values = {"type": "blocker-rados", "conf": conf, "pool": pool, "namespace": namespace, **options}
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        text += "\n".join([f"[peers.{role}]", *lines, ""])
    return text


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tools.cluster", description="A private Ceph cluster in a folder.",
                                     epilog="More is told by the file's first lines.")
    parser.add_argument("--folder", default=FOLDER, help="where it lives (%(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    make = verbs.add_parser("up", help="make and start a new cluster")
    make.add_argument("--osds", type=int, default=1, help="how many OSDs (%(default)s)")
    make.add_argument("--store", choices=STORES, default="bluestore", help="of objects (%(default)s)")
    make.add_argument("--mgr", action="store_true", help="run a manager as well")
    make.add_argument("--pool", action="append", default=[], metavar="NAME", help="make this pool, too")
    pool = verbs.add_parser("pool", help="make a pool")
    pool.add_argument("name")
    pool.add_argument("--size", type=int, default=1, help="copies of each object (%(default)s)")
    pool.add_argument("--pgs", type=int, default=32, help="placement groups (%(default)s)")
    pool.add_argument("--quota", type=int, default=0, help="bytes it may hold (no limit)")
    for verb, text in (("osd-kill", "kill -9 an OSD"), ("osd-start", "start it again")):
        verbs.add_parser(verb, help=text).add_argument("number", type=int)
    for verb, text in (("down", "stop the daemons, keep the data"), ("start", "start them again"),
                       ("destroy", "kill them and remove the folder"), ("status", "what ceph -s says"),
                       ("conf", "path of its ceph.conf")):
        verbs.add_parser(verb, help=text)
    args = parser.parse_args()
    cluster = Cluster(args.folder)
    actions: dict[str, Callable[[], Any]] = {
        "up": lambda: cluster.up(tuple(args.pool), osds=args.osds, store=args.store, mgr=args.mgr),
        "pool": lambda: cluster.pool(args.name, args.size, args.pgs, args.quota),
        "osd-kill": lambda: cluster.osd_kill(args.number),
        "osd-start": lambda: cluster.osd_start(args.number),
        "down": cluster.down, "start": cluster.start, "destroy": cluster.destroy,
        "status": lambda: print(cluster.run("ceph", "-s"), end=""), "conf": lambda: print(cluster.conf),
    }
    if args.verb == "up" and args.mgr and not shutil.which("ceph-mgr"):
        parser.error("a manager needs a package that is not installed: apt-get install ceph-mgr")
    try:
        ours.check_folder(args.folder)
        actions[args.verb]()
    except OSError as failure:
        print(f"tools.cluster: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
