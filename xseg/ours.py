# SPDX-License-Identifier: Apache-2.0
"""Is it ours? Asked of everything that is joined, opened, followed or believed.

"We" are the effective user of this process, and root, who could do anything to us anyhow. So an instance belongs to
one user, whose processes alone run it; root's belong to root, and root does not run in the memory of another user: what
lies there that user may change under root's hands. Groups are nobody: what a group may write to is not ours.

A *folder* is ours if it belongs to us and nobody else may write to it, and if each folder above it belongs to us and
nobody else may rename what is in it: he may not write to it, or its sticky bit is set (/tmp, /dev/shm). Symbolic links
on the way are followed if they are ours. What lies in a folder of ours was put there by us; that it is ours is
looked at all the same, as a folder may have been open to others before.

A *file* is opened without following a link in its last place, without waiting (a FIFO has no writer for ever) and
without truncating it, is looked at through its descriptor, and is ours if it is a regular file, belongs to us, has
no other name, and nobody else may write to it. Only then it is read, written or truncated.

Whoever gets the answer no is told the path, what is wrong with it, and what to do: NotOurs.
native/segment/ours.h is the same for C.
"""
from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
import stat
import struct
from typing import IO, Any

from xseg.errors import Invalid, NotOurs

FILE_MODE = 0o600
FOLDER_MODE = 0o700
UMASK = 0o077                   # of every process: what is made without a word about it is for its owner
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LINKS_MAX = 40                  # symbolic links on the way to a folder, as for the kernel
ROOT = 0
CONNECT_S = 5.0                 # that a server may take to take one in
_came_with: int | None = None   # the umask that close_umask() found
KINDS = {stat.S_IFREG: "regular file", stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket",
         stat.S_IFLNK: "symbolic link", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def is_us(uid: int) -> bool:
    """True for this process's effective user, and for root."""
    return uid in (ROOT, os.geteuid())


def who(uid: int) -> str:
    """A user as a person knows him: "alice (uid 1000)"."""
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"


def kind_of(st: os.stat_result) -> str:
    return KINDS.get(stat.S_IFMT(st.st_mode), "thing of an unknown kind")


def check(st: os.stat_result, path: str, kind: int, open_to_others: bool = False) -> None:
    """NotOurs unless what was looked at is of this kind (stat.S_IFREG...), and ours."""
    if stat.S_IFMT(st.st_mode) != kind:
        raise NotOurs(f"{path} is a {kind_of(st)} where a {KINDS[kind]} belongs: remove it")
    if not is_us(st.st_uid):
        raise NotOurs(f"{path} belongs to {who(st.st_uid)} and not to {who(os.geteuid())}, so it is not used: if it is "
                      f"yours run this as that user, if not remove it")
    if st.st_mode & OTHERS_WRITE and not open_to_others:
        raise NotOurs(f"others than {who(st.st_uid)} may write to {path} (mode {stat.S_IMODE(st.st_mode):04o}), so it "
                      f"is not used: `chmod go-w {path}` if what is in it is as it should be")
    if kind == stat.S_IFREG and st.st_nlink > 1:
        raise NotOurs(f"{path} has {st.st_nlink - 1} other name{'s' if st.st_nlink > 2 else ''} (hard links), so it is "
                      "not used: remove it, or put a copy in its place")


def close_umask() -> int:
    """Has this process make things for its owner alone, where nothing else is said. The umask it came with."""
    global _came_with
    before = os.umask(UMASK)
    if _came_with is None:
        _came_with = before
    return _came_with


# --- folders

def _check_above(st: os.stat_result, path: str, below: str) -> None:
    """NotOurs if somebody else may put another thing in the place of what lies in this folder."""
    if not is_us(st.st_uid):
        raise NotOurs(f"{below} lies below {path}, which belongs to {who(st.st_uid)}, who could put anything in its "
                      f"place: run this as that user, or choose a folder elsewhere")
    if st.st_mode & OTHERS_WRITE and not st.st_mode & stat.S_ISVTX:
        raise NotOurs(f"{below} lies below {path} (mode {stat.S_IMODE(st.st_mode):04o}), where others may put anything "
                      f"in its place: `chmod go-w {path}`, or choose a folder elsewhere")


def resolve(path: str) -> str:
    """The path without symbolic links, each of which is ours, as are the folders above. What is not there
    yet stays as it is said. NotOurs. The last part itself is not looked at further."""
    waiting = os.path.abspath(path).split("/")[::-1]
    here, links = "/", 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, part)
        _check_above(os.lstat(here), here, path)
        try:
            st = os.lstat(there)
        except FileNotFoundError:
            return os.path.normpath(os.path.join(there, *waiting[::-1]))
        if not stat.S_ISLNK(st.st_mode):
            here = there
            continue
        links += 1
        if not is_us(st.st_uid):
            raise NotOurs(f"{there} is a symbolic link of {who(st.st_uid)}, so it is not followed: remove it")
        if links > LINKS_MAX:
            raise Invalid(errno.ELOOP, f"{path}: {os.strerror(errno.ELOOP)}")
        target = os.readlink(there)
        here = "/" if target.startswith("/") else here
        waiting += target.split("/")[::-1]
    return here


def check_folder(path: str, sticky: bool = False) -> None:
    """NotOurs unless this folder is ours, or not there yet. `sticky`: others may put things into it, if they cannot
    take away ours; then whatever is used in it must be looked at by itself."""
    real = resolve(path)
    with contextlib.suppress(FileNotFoundError):
        st = os.lstat(real)
        check(st, path, stat.S_IFDIR, sticky and bool(st.st_mode & stat.S_ISVTX))


def make_folder(path: str, mode: int = FOLDER_MODE) -> None:
    """Sees to it that it is there, ours, and of this mode, whatever the umask. Those above are made if need be."""
    check_folder(path)
    os.makedirs(path, mode=FOLDER_MODE, exist_ok=True)
    if stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)


# --- files

def open_file(path: str, flags: int = os.O_RDONLY, mode: int = FILE_MODE) -> int:
    """A descriptor of a file that is ours. With O_CREAT it is made, of this mode. O_TRUNC comes last. NotOurs."""
    wanted = flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, wanted & ~os.O_TRUNC, mode)
    except OSError as failure:
        if failure.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):       # a link, a FIFO or socket, a folder
            check(os.lstat(path), path, stat.S_IFREG)
        raise
    try:
        check(os.fstat(fd), path, stat.S_IFREG)
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def opened(path: str, flags: int = os.O_RDONLY, how: str = "r", **more: Any) -> IO[Any]:
    """open_file() as a Python file: opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab")."""
    if "b" not in how:
        more = {"encoding": "utf-8", **more}
    return os.fdopen(open_file(path, flags), how, **more)


def appending(path: str) -> IO[bytes]:
    """A log to write to at its end."""
    return opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab")


def read(path: str, errors: str = "strict") -> str:
    """What a text file of ours says, in UTF-8. NotOurs, FileNotFoundError; UnicodeDecodeError unless `errors` says
    what to do."""
    return read_bytes(path).decode("utf-8", errors)


def read_bytes(path: str) -> bytes:
    with opened(path, os.O_RDONLY, "rb") as file:
        return bytes(file.read())


def read_linked(path: str) -> bytes:
    """The same for a file that an operator may have put elsewhere: a symbolic link is followed if it is ours."""
    try:
        return read_bytes(resolve(path))
    except NotOurs as failure:
        raise NotOurs(f"{path}: {failure}" if path not in str(failure) else str(failure)) from None


def replace(path: str, text: str | bytes) -> None:
    """Puts a file that says this in place of what is there; a kill leaves the old or the new."""
    temporary = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
    os.replace(temporary, path)


def forget(path: str) -> None:
    """Removes a note that may be gone already. On a file system that takes no writes it stays: nothing that ends may
    fail for that, and whoever reads notes looks whether they still hold."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as failure:
        if failure.errno != errno.EROFS:
            raise


# --- sockets

def peer_of(made: socket.socket) -> tuple[int, int, int]:
    """Who is at the other side of a unix socket: pid, uid, gid. For a client: who made the socket listen."""
    return struct.unpack("3i", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


def check_server(made: socket.socket, path: str) -> None:
    """NotOurs unless we are who listens at the socket that this one is connected to."""
    uid = peer_of(made)[1]
    if not is_us(uid):
        raise NotOurs(f"{who(uid)} listens at {path}, and not {who(os.geteuid())}, so nothing is said to him: if the "
                      "instance is yours run this as that user, if not remove the socket")


def check_socket(path: str) -> None:
    """NotOurs if somebody else listens there: before the path is given to a program that would not look."""
    with socket.socket(socket.AF_UNIX) as made, \
            contextlib.suppress(FileNotFoundError, ConnectionError, BlockingIOError, TimeoutError):
        made.settimeout(CONNECT_S)
        made.connect(path)
        check_server(made, path)


# --- an instance

def check_home(home: str) -> None:
    """NotOurs unless the home of an instance is ours, or not there yet, and the folders in it that are believed. The
    home may be the root of a new tmpfs, which is sticky."""
    check_folder(home, sticky=True)
    for part in ("run", "run/mapped", "log"):
        check_folder(os.path.join(home, part))
