# SPDX-License-Identifier: Apache-2.0
"""What tests are made of: instances in short folders under /tmp, commands, kills, logs."""
from __future__ import annotations

import contextlib
import glob
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from xseg.client import Client
from xseg.request import Reply
from xseg.segment import SHM, Segment, name_for

BIN = os.path.dirname(sys.executable)
DIST_PACKAGES = "/usr/lib/python3/dist-packages"
COMMAND_TIMEOUT_S = 180
WAIT_S = 60.0                   # for anything that is to happen at all, on a busy machine
SMALL_SEGMENT = {"static_slots": 256, "dynamic_slots": 128, "clients": 96, "volumes": 1024, "buffers": [512, 64, 24],
                 "frames": 64, "stacks": [256, 256, 64], "contents": 4096}
SANITIZER_WORDS = ("ERROR: AddressSanitizer", "runtime error:", "LeakSanitizer")


def run(*command: str, check: bool = True, env: dict[str, str] | None = None, timeout: float = COMMAND_TIMEOUT_S,
        input: str | bytes | None = None, text: bool = True, **more: Any) -> subprocess.CompletedProcess:
    """Runs a command with its output caught; ours are found beside the interpreter.

    With `check`, a failure is an AssertionError that shows what was said.
    """
    ours = os.path.join(BIN, command[0])
    words = [ours if os.path.exists(ours) else command[0], *map(str, command[1:])]
    environment = {**os.environ, **(env or {})}
    if words[0] != ours:
        environment.pop("LD_PRELOAD", None)     # the sanitizers are for our code
    done = subprocess.run(words, capture_output=True, text=text, input=input, timeout=timeout, env=environment,
                          **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def wait_until(true: Callable[[], Any], what: str, seconds: float = WAIT_S,
               poll_s: float = 0.01) -> Any:
    """The first true value that `true` returns; an AssertionError that says `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(poll_s)
    return value


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value)


def processes_of(home: str, module: bytes = b"tools.instance.host") -> list[int]:
    """Pids of the pipeline processes of an instance, or of what else runs this module for it."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if module in words and home.encode() in words:
            found.append(int(path.split("/")[2]))
    return found


def segments_of(home: str) -> list[str]:
    """Segments in shared memory of an instance that is stopped."""
    return glob.glob(SHM + name_for(home) + "*")


class Instance:
    """An instance of the pipeline in a folder of its own.

    It has no supervisor unless the test wants one, so that what a test kills stays dead until restart().
    """

    def __init__(self, home: str, config: str = "", supervised: bool = False) -> None:
        self.home = home
        self.supervised = supervised
        self.env = {"ARCHIPELAGO_HOME": home}
        if "stacks" in config:
            self.env["ARCHIPELAGO_SCANTY"] = "1"
        self.killed: set[str] = set()           # processes a test killed and did not start again
        self._client: Client | None = None
        if config:
            with open(os.path.join(home, "archipelago.toml"), "w", encoding="utf-8") as file:
                file.write(config)

    # --- commands

    def run(self, *command: str, **more: Any) -> subprocess.CompletedProcess:
        """run() with this instance as the one that commands act upon."""
        return run(*command, env=self.env, **more)

    def archipelago(self, *words: str, **more: Any) -> subprocess.CompletedProcess:
        return self.run("archipelago", *words, **more)

    def vlmc(self, *words: str, **more: Any) -> subprocess.CompletedProcess:
        return self.run("vlmc", *words, **more)

    def vlmc_json(self, *words: str) -> Any:
        return json.loads(self.vlmc(*words, "--json").stdout)

    def nbd_uri(self, name: str) -> str:
        return f"nbd+unix:///{name}?socket={self.home}/run/nbd.sock"

    def start(self) -> None:
        self.archipelago("start", *([] if self.supervised else ["--unsupervised"]))

    def stop(self) -> None:
        self.disconnect()
        self.archipelago("stop", "--force")

    def status(self) -> dict[str, dict[str, Any]]:
        """What `archipelago status --json` says of each role."""
        shown = json.loads(self.archipelago("status", "--json", check=False).stdout)
        return {peer["role"]: peer for peer in shown["peers"]}

    # --- requests

    @property
    def client(self) -> Client:
        """A client that stays joined until disconnect() or the end of the test."""
        if self._client is None:
            self._client = Client(self.home)
        return self._client

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, role: str, op: int, **fields: Any) -> Reply:
        """One request to a role: object=(kind, volume, epoch, index), offset, size, data, room, flags, arg.

        Raises the answer's error unless check=False.
        """
        return self.client.call(role, op, **fields)

    # --- faults

    def pid(self, role: str) -> int:
        return self.status()[role]["pid"]

    def kill(self, role: str, number: int = signal.SIGKILL) -> str:
        """Sends a signal, kill -9 by default, to the process that hosts a role; its name."""
        peer = self.status()[role]
        os.kill(peer["pid"], number)
        if number == signal.SIGKILL:
            wait_until(lambda: self.status()[role]["state"] == "dead", f"{role} is dead")
            self.killed.add(peer["process"])
        return peer["process"]

    def restart(self, role: str) -> None:
        self.killed.discard(self.status()[role]["process"])
        self.archipelago("restart", role)

    # --- the end

    def logs(self) -> str:
        text = ""
        for path in sorted(glob.glob(os.path.join(self.home, "log", "*.log"))):
            with open(path, encoding="utf-8", errors="replace") as file:
                text += f"--- {os.path.basename(path)}\n{file.read()}"
        return text

    def check_health(self) -> None:
        """Fails if a process died that no test killed, or if a sanitizer complained."""
        for peer in self.status().values():
            assert peer["state"] != "dead" or peer["process"] in self.killed, f"the process {peer['process']} died"
        logs = self.logs()
        for word in SANITIZER_WORDS:
            assert word not in logs, logs[logs.index(word):][:4000]

    def finish(self) -> None:
        """Stops it and sees to it that nothing is left. Fails as check_health() does."""
        try:
            self.check_health()
        finally:
            self.stop()
            left = processes_of(self.home) + processes_of(self.home, b"tools.supervisor")
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert not left, f"processes are left over: {left}"


def config_of(peers: list[tuple[str, str, dict[str, Any]]], processes: list[list[str]] | None = None,
              more: str = "") -> str:
    """archipelago.toml of a pipeline of just these peers: (role, type, options)."""
    lines = [f"layout = {toml(processes or [[role for role, _, _ in peers]])}", more]
    for role, peer_type, options in peers:
        lines += [f"[peers.{role}]", f"type = {toml(peer_type)}"]
        lines += [f"{name} = {toml(value)}" for name, value in options.items()]
    return "\n".join(lines) + "\n"


def libnbd() -> Any:
    """libnbd's Python binding, which Debian puts where a virtual environment does not look."""
    import pytest
    if DIST_PACKAGES not in sys.path:
        sys.path.append(DIST_PACKAGES)
    pytest.importorskip("libnbdmod", reason="libnbd's binding for this Python is missing (python3-libnbd)")
    return importlib.import_module("nbd")


@contextlib.contextmanager
def unsynced(config: str = "", supervised: bool = False) -> Iterator[Instance]:
    """A running instance in a folder of its own, whose blockers sync nothing. Its end fails as finish() does."""
    home = tempfile.mkdtemp(prefix="ar-", dir="/tmp")
    made = Instance(home, config + "[peers.blockerb]\nsync = false\n[peers.blockerm]\nsync = false\n", supervised)
    try:
        made.start()
        yield made
        made.finish()
    finally:
        Segment.unlink(name_for(home))
        shutil.rmtree(home, ignore_errors=True)
