# SPDX-License-Identifier: Apache-2.0
"""Disk images, by qemu-img: what `vlmc import` and `vlmc export` share."""
from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from tools import interrupts
from xseg import ours
from xseg.errors import Busy, NoSpace, XsegError, error

PARALLEL = "8"                          # requests that qemu-img keeps under way; 16 is its bound
INFO_TIMEOUT_S = 300
CHECK_GOOD = (0, 3)                     # statuses of qemu-img check: no errors; only leaked clusters
END_S = 10.0                            # that qemu-img may take to end after SIGTERM
TEXT_MAX = 65536                        # bytes of its complaints that are looked at
NAME_KEPT_MAX = 200                     # bytes of the name that a partial file repeats
PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
PROGRAM = "qemu-img"
PR_SET_PDEATHSIG = 1                    # linux/prctl.h

KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a character device",
         stat.S_IFSOCK: "a socket"}

Progress = Callable[[float], None]      # is told what part is done, 0 to 1


def environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def about(file: str, failure: OSError) -> XsegError:
    """A failure with the file as the user named it."""
    code = failure.errno or errno.EIO
    return error(code, f"{file}: {os.strerror(code)}")


def no_file(file: str, mode: int) -> XsegError:
    """It is neither a plain file nor a block device: what it is instead."""
    kind = KINDS.get(stat.S_IFMT(mode), "something else")
    return error(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL,
                 f"{file}: it is {kind}, no plain file and no block device"
                 + ("; for what comes or goes through a pipe the name is -" if stat.S_ISFIFO(mode) else ""))


def missing_program() -> XsegError:
    return XsegError(errno.ENOENT, f"{PROGRAM} is missing (Debian package qemu-utils)")


def complaint(text: str, subject: str) -> XsegError:
    """What qemu-img said, as an error with the errno that its words name, EIO if they name none."""
    lines = [line.removeprefix(PROGRAM + ": ").strip() for line in text.splitlines() if line.strip()]
    said = lines[0] if lines else "it ended without a word"
    code = next((code for code in errno.errorcode if said.endswith(os.strerror(code))), errno.EIO)
    return error(code, f"{subject}: {PROGRAM}: {said}")


def end_with_us() -> Callable[[], None]:
    """For a child to call before it runs its program: it is killed when this process ends, however that ends."""
    import ctypes
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def inspect(subject: str, *words: str, good: tuple[int, ...] = (0,), files: tuple[int, ...] = ()) -> str:
    """What qemu-img prints, which inherits `files`. OSError with its complaint about the subject unless its status
    is good."""
    try:
        done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=INFO_TIMEOUT_S,
                              env=environment(), stdin=subprocess.DEVNULL, pass_fds=files, preexec_fn=end_with_us())
    except FileNotFoundError:
        raise missing_program() from None
    except subprocess.TimeoutExpired:
        raise XsegError(errno.ETIMEDOUT,
                        f"{subject}: {PROGRAM} {words[0]} took more than {INFO_TIMEOUT_S} s") from None
    if done.returncode not in good:
        raise complaint(done.stderr or done.stdout, subject)
    return done.stdout


def convert(subject: str, words: list[str], progress: Progress, files: tuple[int, ...] = ()) -> None:
    """Runs `qemu-img convert` with these words; it inherits `files`. OSError with its complaint about the subject.

    The target is flushed before it ends (its cache mode would be `unsafe` otherwise).
    """
    child = None
    with tempfile.TemporaryFile() as said:
        try:
            with interrupts.held():         # else there might be a child that nobody knows
                child = subprocess.Popen(
                    [PROGRAM, "convert", "-p", "-m", PARALLEL, "-t", "writeback", *words],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment(), pass_fds=files,
                    preexec_fn=end_with_us())
            _follow(child, progress)
            code = child.wait()
        except FileNotFoundError:
            raise missing_program() from None
        finally:
            if child is not None:
                _end(child)
        said.seek(0)
        if code:
            raise complaint(said.read(TEXT_MAX).decode(errors="replace"), subject)
    progress(1.0)


def _follow(child: subprocess.Popen[bytes], progress: Progress) -> None:
    """Reads "(12.34/100%)" from its output until that ends."""
    assert child.stdout is not None
    with child.stdout as output:
        while text := os.read(output.fileno(), 4096):
            if seen := PERCENT.findall(text):
                progress(float(seen[-1]) / 100)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Sees to it that it has ended."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_S)
            return
        child.kill()
        child.wait()


@contextlib.contextmanager
def progress_bar(title: str, size: int | None, wanted: bool) -> Iterator[Progress]:
    """A bar on stderr, if wanted; gives a Progress. None: the size is not known, and bytes are what that is told."""
    if not wanted:
        yield lambda part: None
        return
    from tqdm import tqdm
    with tqdm(total=size, desc=title, unit="B", unit_scale=True, unit_divisor=1024, leave=True) as bar:
        def show(part: float) -> None:
            bar.update(int(part * (size or 1)) - bar.n)

        yield show


@contextlib.contextmanager
def partial(file: str, target: str) -> Iterator[int]:
    """A descriptor of a file that replaces `target` at the end, durably, and has no name before: so nothing of it is
    left, however this process ends. (Where the file system cannot do that it has one beside `target`, and is removed
    on failure.) To programs it is /dev/fd/N.

    Errors name `file`, as the user called the target.
    """
    folder, name = os.path.split(target)
    prefix = f"{name[:NAME_KEPT_MAX]}.part-"
    number, part = -1, ""
    try:
        with interrupts.held():
            number, part = _make_partial(file, folder, prefix)
        yield number
        os.fchmod(number, 0o666 & ~ours.close_umask())
        os.fsync(number)
        with interrupts.held():
            part = part or _give_name(number, folder, prefix)
            os.rename(part, target)
            part = ""
    finally:
        if part:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
        if number >= 0:
            os.close(number)
    _sync(folder)


@contextlib.contextmanager
def device(file: str, target: str, size: int) -> Iterator[int]:
    """A descriptor of a block device that nobody else uses meanwhile, to write `size` bytes there; they are durable
    at the end. Busy: it is mounted or in use. NoSpace: it is smaller. OSError. All name `file`."""
    try:
        number = os.open(target, os.O_RDWR | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        if failure.errno == errno.EBUSY:
            raise Busy(f"{file}: it is mounted, or in use otherwise") from None
        raise about(file, failure) from None
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISBLK(mode):
            raise Busy(f"{file}: it was a block device, and is none any more")
        there = os.lseek(number, 0, os.SEEK_END)
        if there < size:
            raise NoSpace(f"{file}: it has {there} bytes, and {size} are to be written")
        yield number
        os.fsync(number)
    finally:
        os.close(number)


def _make_partial(file: str, folder: str, prefix: str) -> tuple[int, str]:
    """An empty file, and its path if it has one. OSError that names `file`."""
    try:
        with contextlib.suppress(OSError):
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), ""
        return tempfile.mkstemp(prefix=prefix, dir=folder)
    except OSError as failure:
        raise about(file, failure) from None


def _give_name(number: int, folder: str, prefix: str) -> str:
    """A path for a file that has none."""
    path = os.path.join(folder, prefix + os.urandom(4).hex())
    os.link(f"/proc/self/fd/{number}", path, src_dir_fd=number, follow_symlinks=True)    # linkat(AT_SYMLINK_FOLLOW)
    return path


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
