# SPDX-License-Identifier: Apache-2.0
"""Volumes as block devices: what `vlmc map`, `unmap` and `showmapped` share.

Each mapped volume has an entry, HOME/run/mapped/ID.json, written before its device exists, so that a
command that is killed midway leaves something that `vlmc unmap` can undo. Whoever changes entries holds
run/mapped/lock.

A device stands on a volume, not on a name: entry, mount point and NBD connections are called by the
volume's id. What people see and say is its present name, which the mapper is asked for; while it cannot be
asked, that is the name the volume had when it was mapped.

An entry is stale when what it names is gone: after a boot, or when nbdfuse was killed.
"""
from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import time
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tools.instance import locking
from tools.instance.messages import COUNT_LIMIT, PID_MAX, from_json, is_number
from tools.mapping import blockdev
from tools.mapping.methods import METHODS, boot_id
from xseg import ours
from xseg.client import Client
from xseg.errors import Busy, Damaged, Exists, Invalid, NotFound, XsegError, error
from xseg.volume_name import by_id

if TYPE_CHECKING:
    from tools.mapping.methods import Method

NAMES_TIMEOUT_S = 10.0          # for the mapper to tell the present names
ID = re.compile("[0-9a-f]{16}")
DEVICE = re.compile("/dev/(nbd|loop)[0-9]{1,9}")
CONTROL = re.compile("[\x00-\x1f\x7f]")          # in no text of an entry


@dataclass
class Entry:
    """A mapped volume."""

    name: str                           # the volume's: in the file when it was mapped, else the present one
    id: str                             # the volume's
    home: str
    readonly: bool
    method: str = ""                    # of methods.py
    device: str = ""                    # "": not made yet
    pid: int = 0                        # of nbdfuse or nbd-client
    start_time: int = 0                 # of that process, in clock ticks after boot
    since: str = ""                     # local time, ISO 8601
    boot: str = field(default_factory=boot_id)
    key: str = ""                       # what its files are called: the id, unless an older version made them

    @property
    def base(self) -> str:
        """Path of all that belongs to the entry, less the endings."""
        return os.path.join(self.home, "run", "mapped", self.key or self.id)

    @property
    def mountpoint(self) -> str:
        """Where nbdfuse shows its file."""
        return self.base

    @property
    def log(self) -> str:
        return os.path.join(self.home, "log", f"map-{os.path.basename(self.base)}.log")

    @property
    def implementation(self) -> Method:
        return next(method for method in METHODS if method.name == self.method)

    @property
    def alive(self) -> bool:
        return self.implementation.alive(self)

    def save(self) -> None:
        ours.replace(self.base + ".json", json.dumps(asdict(self) | {"mountpoint": self.mountpoint}))

    def forget(self) -> None:
        for path in (self.base + ".json", self.log):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def shown(self) -> dict[str, Any]:
        """For --json and tables."""
        alive = self.alive
        parts = blockdev.partitions(self.device) if alive else []
        return {"name": self.name, "id": self.id, "device": self.device or None, "method": self.method,
                "readonly": self.readonly, "state": "mapped" if alive else "stale", "pid": self.pid or None,
                "since": self.since, "partitions": parts,
                "mounts": blockdev.mounts([self.device, *parts]) if alive else []}


def entries(home: str) -> list[Entry]:
    """All entries of an instance, by name. One that cannot be read is left out. NotOurs: one is a stranger's, who could
    name any process to be ended and any device to be detached."""
    found = []
    ours.check_home(home)
    for path in glob.glob(os.path.join(glob.escape(home), "run", "mapped", "*.json")):
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            entry = parse_entry(ours.read(path), home, os.path.basename(path).removesuffix(".json"))
            if entry:
                found.append(entry)
    return sorted(found, key=lambda entry: entry.name)


def parse_entry(text: str, home: str, key: str) -> Entry | None:
    """The entry that a file KEY.json holds; None: it is no such thing."""
    try:
        values = from_json(text, "it")
    except Invalid:
        return None
    values = {name: value for name, value in values.items() if name != "mountpoint"} | {"home": home, "key": key}
    types = {item.name: item.type for item in fields(Entry)}
    needed = {item.name for item in fields(Entry) if item.default is MISSING and item.default_factory is MISSING}
    if not needed <= set(values) <= set(types) \
            or any(type(value).__name__ != types[name] for name, value in values.items()):
        return None
    entry = Entry(**values)
    good = (ID.fullmatch(entry.id) and (not entry.device or DEVICE.fullmatch(entry.device))
            and is_number(entry.pid, 0, PID_MAX + 1) and is_number(entry.start_time, 0, COUNT_LIMIT)
            and any(method.name == entry.method for method in METHODS)
            and not CONTROL.search(entry.name + entry.since + entry.boot))
    return entry if good else None


def shown_entries(home: str) -> list[Entry]:
    """The same under the volumes' present names, as far as the mapper can tell them."""
    found = entries(home)
    if found:
        with contextlib.suppress(OSError), Client(home, "vlmc") as client:
            if client.segment.alive(client.segment.port_of("mapper")):
                for entry in found:
                    entry.name = present_name(client, entry)
    return sorted(found, key=lambda entry: entry.name)


def present_name(client: Client, entry: Entry) -> str:
    """What its volume is called now; what it was called if there is no such volume any more."""
    try:
        return str(client.control("info", timeout=NAMES_TIMEOUT_S, name=by_id(entry.id))["name"])
    except (NotFound, Damaged):
        return entry.name


def mapped(home: str) -> list[Entry]:
    """Volumes that are block devices now. What a dead mapping left behind does not count."""
    return [entry for entry in shown_entries(home) if entry.alive]


def refuse_while_mapped(home: str, consequence: str, restart: bool = False) -> None:
    """Busy: volumes are mapped, in a way that does not survive a restart if it is but that. `consequence` is what
    --force would do to them."""
    if found := [entry for entry in mapped(home) if not (restart and entry.implementation.keeps_on)]:
        names = ", ".join(f"{entry.name} ({entry.device})" for entry in found)
        raise Busy(f"volumes are mapped: {names}; unmap them by `vlmc unmap`, or use --force: {consequence}")


def locked(home: str) -> contextlib.AbstractContextManager[None]:
    """Holds the instance's entries. Busy."""
    ours.check_home(home)
    folder = os.path.join(home, "run", "mapped")
    if not os.path.isdir(folder):
        ours.make_folder(folder)
    return locking.locked(os.path.join(folder, "lock"),
                          "another `vlmc map` or `vlmc unmap` has been at work for a minute")


def why_not() -> str:
    """Why no volume can be mapped here, as a sentence; "" if it can."""
    if os.geteuid() != 0:
        return "mapping a volume to a block device needs root"
    lacks = {method.name: method.missing() for method in METHODS}
    if all(lacks.values()):
        return "no way to make a block device here: " + "; ".join(map(": ".join, lacks.items()))
    return ""


def attach(entry: Entry, uri: str) -> tuple[Entry, list[str]]:
    """Maps a volume that exists, served at `uri`; its entry, completed, or the one that it has if it is mapped already.
    And what else was done, in sentences.

    Exists: it is mapped already, writable or read-only as it is not wanted. OSError: the device cannot be made; then
    nothing is left behind.
    """
    if reason := why_not():
        raise XsegError(errno.EPERM if os.geteuid() else errno.ENODEV, reason)
    notes = []
    with locked(entry.home):
        for old in entries(entry.home):
            if old.id == entry.id:
                if old.alive:
                    return mapped_before(old, entry)
                notes.append(_clean_up(old))
        entry.since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        method = next(method for method in METHODS if not method.missing())
        entry.method = method.name
        entry.save()
        try:
            method.attach(entry, uri)
            entry.save()
        except BaseException:
            entry.forget()
            raise
    blockdev.find_partitions(entry.device)
    return entry, notes


def mapped_before(old: Entry, entry: Entry) -> tuple[Entry, list[str]]:
    """What attach() says of a volume that has a device. Exists."""
    was = f", since it was called {old.name}" if old.name != entry.name else ""
    where = f"{entry.name} is mapped already, at {old.device}{was}"
    if old.readonly != entry.readonly:
        raise Exists(f"{where}, {'read-only' if old.readonly else 'writable'}: unmap it first")
    old.name = entry.name
    return old, [where]


def _clean_up(entry: Entry) -> str:
    """Removes what is left of a stale entry, and says so. Busy: it is mounted or open all the same."""
    if entry.implementation.has_device(entry) and (who := blockdev.users(entry.device)):
        raise Busy(f"{entry.name}: what served {entry.device} is gone, but {who}: end that use first, "
                   "or use `vlmc unmap --force`")
    entry.implementation.detach(entry, True)
    entry.forget()
    return f"{entry.name} was mapped once, but what served it (pid {entry.pid or 'none'}) is gone: cleaned up"


def find(home: str, what: str) -> Entry:
    """The entry of a volume's present name, its id, or a device's path. NotFound. Invalid: two were mapped under
    that name, and the mapper cannot be asked which has it now."""
    device = os.path.realpath(what) if what.startswith("/") else ""
    known = shown_entries(home)
    found = [entry for entry in known if entry.name == what] or [
        entry for entry in known if entry.id == what or (
            device and entry.device and device in (entry.device, *blockdev.partitions(entry.device)))]
    if not found:
        raise NotFound(f"{what} is not mapped; `vlmc showmapped` lists what is")
    if len(found) > 1:
        raise Invalid(f"{what} may be any of {', '.join(f'{entry.id} ({entry.device})' for entry in found)}: "
                      "say which, by its id or device")
    return found[0]


def detach(home: str, what: str, force: bool) -> tuple[Entry, list[str]]:
    """Unmaps a volume, named by itself or its device, after a flush. The entry, and sentences.

    Busy: mounted or open, and force is false. With force it goes all the same: then whoever uses
    the device gets I/O errors, and what could not be flushed is lost.
    """
    if os.geteuid() != 0:
        raise XsegError(errno.EPERM, "unmapping a volume needs root")
    with locked(home):
        entry = find(home, what)
        if not entry.alive and not force:
            return entry, [_clean_up(entry)]
        notes = _quiesce(entry, force) if entry.alive else []
        entry.implementation.detach(entry, force)
        entry.forget()
    return entry, notes


def _quiesce(entry: Entry, force: bool) -> list[str]:
    """Makes sure that nobody uses the device and all is written. With force, says what was wrong."""
    notes = []
    if who := blockdev.users(entry.device):
        if not force:
            raise Busy(f"{entry.name} ({entry.device}) is in use: {who}")
        notes.append(f"{entry.device} was in use: {who}")
    try:
        blockdev.flush(entry.device)
    except OSError as failure:
        lost = f"{entry.name} ({entry.device}): the last writes could not be stored: {failure.strerror}"
        if not force:
            raise error(failure.errno or errno.EIO, f"{lost}; --force gives them up") from None
        notes.append(lost)
    return notes
