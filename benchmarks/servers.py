# SPDX-License-Identifier: Apache-2.0
"""What is compared: instances of Archipelago, and other NBD servers, each on a unix socket."""
from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks import fio
from benchmarks.rounds import Sample
from xseg.client import Client
from xseg.segment import name_for

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.dirname(sys.executable)
TOOL_LOAD = os.path.join(ROOT, "build", "tool_load")
START_TIMEOUT_S = 30.0
LOAD_GRACE_S = 120.0


def execute(*command: str, timeout: float = 300, root: str = ROOT) -> str:
    """A command's output, run in a tree of ours. RuntimeError shows what it said when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=root,
                          env={**os.environ, "PYTHONPATH": root})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """Something that serves one disk over NBD. `names` are for tables."""

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        self.folder = folder                    # must be short: unix sockets have 107 bytes
        self.size = 0

    def serve(self, size: int) -> None:
        """Makes its disk of `size` bytes and serves it."""
        raise NotImplementedError

    def uri(self) -> str:
        raise NotImplementedError

    def pids(self) -> list[int]:
        raise NotImplementedError

    def files(self) -> list[str]:
        """The files that hold the disk's bytes."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class Process(Server):
    """A server of one process, started by command()."""

    child: subprocess.Popen | None = None

    @property
    def socket(self) -> str:
        return os.path.join(self.folder, self.name.replace(" ", "-").replace("/", "-") + ".sock")

    def command(self) -> list[str]:
        raise NotImplementedError

    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    def pids(self) -> list[int]:
        return [self.child.pid] if self.child else []

    def start(self) -> None:
        """Starts it and waits for its socket."""
        with open(self.socket + ".log", "wb") as log:
            self.child = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_TIMEOUT_S
        while not os.path.exists(self.socket):
            if self.child.poll() is not None or time.monotonic() > end:
                with open(self.socket + ".log", encoding="utf-8", errors="replace") as log:
                    raise RuntimeError(f"{self.name} does not start: {' '.join(self.command())}\n{log.read()}")
            time.sleep(0.002)

    def stop(self) -> None:
        if self.child:
            self.child.terminate()
            self.child.wait(timeout=START_TIMEOUT_S)
            self.child = None
        if os.path.exists(self.socket):
            os.unlink(self.socket)


class QemuNbd(Process):
    """qemu-nbd on a raw or qcow2 file. `aio`: threads, native or io_uring; `direct`: O_DIRECT."""

    def __init__(self, folder: str, form: str, aio: str, direct: bool, path: str | None = None) -> None:
        super().__init__(f"qemu-nbd {form} {aio}", folder)
        self.form, self.aio, self.direct = form, aio, direct
        self.path = path or os.path.join(folder, f"{form}-{aio}.img")

    def serve(self, size: int) -> None:
        self.size = size
        execute("qemu-img", "create", "-q", "-f", self.form, *self.create_options(), self.path, str(size))
        self.start()

    def create_options(self) -> list[str]:
        return ["-o", "preallocation=falloc"]

    def image_options(self) -> str:
        """The image as qemu's block layer takes it."""
        cache = f"cache.direct={'on' if self.direct else 'off'},cache.no-flush=off"
        file = f"file.driver=file,file.filename={self.path},file.aio={self.aio},file.locking=off"
        return f"driver={self.form},{file},{cache},file.{cache.replace(',', ',file.')}"

    def command(self) -> list[str]:
        return ["qemu-nbd", "-t", "-e", "8", "-k", self.socket, "--discard=unmap", "--image-opts",
                self.image_options()]

    def files(self) -> list[str]:
        return [self.path]


class Storage(QemuNbd):
    """qemu-storage-daemon on a raw or qcow2 file."""

    def __init__(self, folder: str, form: str, aio: str, direct: bool) -> None:
        super().__init__(folder, form, aio, direct, os.path.join(folder, f"qsd-{form}-{aio}.img"))
        self.name = f"qemu-storage-daemon {form} {aio}"

    def command(self) -> list[str]:
        return ["qemu-storage-daemon", "--blockdev", f"node-name=disk,{self.image_options()}",
                "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                "--export", "type=nbd,id=disk,node-name=disk,name=,writable=on"]


class Nbdkit(Process):
    """nbdkit's file plugin on a raw file, through the page cache."""

    def __init__(self, folder: str) -> None:
        super().__init__("nbdkit file", folder)
        self.path = os.path.join(folder, "nbdkit.img")

    def serve(self, size: int) -> None:
        self.size = size
        execute("qemu-img", "create", "-q", "-f", "raw", "-o", "preallocation=falloc", self.path, str(size))
        self.start()

    def command(self) -> list[str]:
        return ["nbdkit", "-f", "-U", self.socket, "file", self.path]

    def files(self) -> list[str]:
        return [self.path]


class Archipelago(Server):
    """An instance of the pipeline. `config` is its archipelago.toml; `volume` is what uri() means."""

    def __init__(self, folder: str, name: str = "archipelago", config: str = "", short: str = "") -> None:
        super().__init__(name, folder)
        self.home = os.path.join(folder, short or name.replace(" ", "-"))
        self.volume = "disk"
        self._pids: list[int] = []
        os.makedirs(self.home)
        with open(os.path.join(self.home, "archipelago.toml"), "w", encoding="utf-8") as file:
            file.write(config)

    def start(self) -> None:
        self.command("start")

    def serve(self, size: int) -> None:
        self.size = size
        self.start()
        with self.client() as client:
            client.control("create", name=self.volume, size=size)

    def command(self, *words: str) -> str:
        return execute(os.path.join(BIN, "archipelago"), "--home", self.home, *words)

    def restart(self, role: str) -> None:
        self.command("restart", role)
        self._pids = []

    def client(self) -> Client:
        return Client(self.home, "bench")

    def uri(self, volume: str = "") -> str:
        return f"nbd+unix:///{volume or self.volume}?socket={self.home}/run/nbd.sock"

    def processes(self) -> dict[str, int]:
        """Role -> pid of the process that hosts it."""
        return {peer["role"]: peer["pid"] for peer in json.loads(self.command("status", "--json"))["peers"]}

    def pids(self) -> list[int]:
        if not self._pids:
            self._pids = sorted(set(self.processes().values()))
        return self._pids

    def files(self) -> list[str]:
        return glob.glob(os.path.join(self.home, "data", "data", "*", "*"))

    def space(self) -> int:
        """Bytes its data objects take on the file system."""
        return sum(os.stat(path).st_blocks * 512 for path in self.files())

    def counters(self) -> dict[str, dict[str, int]]:
        """role -> counters of its port: received, served, bytes_read, bytes_written..."""
        keys = ("received", "served", "errors", "sent", "bytes_read", "bytes_written", "wakes", "rings")
        with self.client() as client:
            ports = client.segment.c.ports
            return {role: {key: getattr(ports[client.segment.port_of(role)], key) for key in keys}
                    for role in self.processes()}

    def load(self, *words: str) -> dict[str, float]:
        """What build/tool_load says, run on this instance. words: "volume" or "role", and the load."""
        mode, *more = words
        told = execute(TOOL_LOAD, mode, "--segment", name_for(self.home), *more, timeout=LOAD_GRACE_S)
        return json.loads(told)

    def stop(self) -> None:
        self.command("stop", "--force")


class Revision(Archipelago):
    """An instance of another tree that was built, whose segment a program of this one cannot join."""

    def __init__(self, folder: str, name: str, config: str, short: str, root: str) -> None:
        super().__init__(folder, name, config, short)
        self.root = root

    def tool(self, tool: str, *words: str) -> str:
        call = f"import sys; from tools.{tool} import main; sys.exit(main())"
        return execute(sys.executable, "-c", call, "--home", self.home, *words, root=self.root)

    def command(self, *words: str) -> str:
        return self.tool("archipelago", *words)

    def serve(self, size: int) -> None:
        self.size = size
        self.start()
        self.tool("vlmc", "create", self.volume, "--size", str(size))


def fill_all(servers: Sequence[Server], size: int) -> None:
    """Makes every server's disk and fills it the same way."""
    for server in servers:
        server.serve(size)
        fio.fill(fio.on_nbd(server.uri()), size)


class Stage(ExitStack):
    """A folder under the scratch folder with servers in it, all stopped and removed at the end."""

    def __init__(self, scratch: str, name: str) -> None:
        super().__init__()
        self.folder = os.path.join(scratch, name)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.servers: list[Server] = []
        self.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def add(self, server: Server) -> Server:
        """Takes charge of a server: it is stopped with the stage."""
        self.servers.append(server)
        self.callback(server.stop)
        return server

    def instance(self, name: str = "archipelago", config: str = "", short: str = "") -> Archipelago:
        made = Archipelago(self.folder, name, config, short)
        self.add(made)
        return made

    def pids(self) -> list[int]:
        """Processes of all its servers."""
        return [pid for server in self.servers for pid in server.pids()]

    def sampler(self, server: Server, job: fio.Job, uri: str = "") -> Callable[[], Sample]:
        """What takes a sample of a job on a server (its disk, or another of its URIs)."""
        return lambda: fio.measure(job, fio.on_nbd(uri or server.uri()), server.size, server.pids(), self.pids())
