# SPDX-License-Identifier: Apache-2.0
"""One tree of exceptions for everything that can go wrong.

XsegError is an OSError: `errno` says what kind of failure it was, str() is a sentence for a
person. There is a subclass for each errno that somebody may want to catch.
"""
import errno
import os


class XsegError(OSError):
    """A failure with an errno (positive) and a sentence that names the thing and the remedy."""

    default_errno = errno.EIO
    errno: int
    strerror: str

    def __init__(self, code: int | str | None = None, text: str = "") -> None:
        number = code if isinstance(code, int) and code else self.default_errno
        super().__init__(number, (code if isinstance(code, str) else text) or os.strerror(number))

    def __str__(self) -> str:
        return self.strerror


class NotFound(XsegError):
    default_errno = errno.ENOENT


class NotRunning(NotFound):
    """There is no segment: the instance is not running."""


class Exists(XsegError):
    default_errno = errno.EEXIST


class Busy(XsegError):
    default_errno = errno.EBUSY


class ReadOnly(XsegError):
    default_errno = errno.EROFS


class NoSpace(XsegError):
    default_errno = errno.ENOSPC


class Stale(XsegError):
    default_errno = errno.ESTALE


class Invalid(XsegError):
    default_errno = errno.EINVAL


class NotOurs(XsegError):
    """A file, folder, socket or segment belongs to somebody else, or others may change it. See xseg/ours.py."""

    default_errno = errno.EPERM


class Damaged(XsegError):
    """A header, page or record on the store does not match its checksum or format."""

    default_errno = errno.EBADMSG


class Unsupported(XsegError):
    """The peer does not serve this operation."""

    default_errno = errno.EOPNOTSUPP


class TimedOut(XsegError):
    default_errno = errno.ETIMEDOUT


class WrongVersion(XsegError):
    """The segment was made by another version or build."""

    default_errno = errno.EPROTO


class Unfinished(WrongVersion):
    """Whoever made the segment died before it was done: nobody has used it."""


class OtherStore(XsegError):
    """A store is not the one that the segment knows of."""

    default_errno = errno.ESTALE


class NoSlots(XsegError):
    """The port's requests, or the segment's ports or bells, are all in use."""

    default_errno = errno.EAGAIN


class NoBuffers(XsegError):
    """No data buffer is free within the port's quota."""

    default_errno = errno.ENOBUFS


KINDS: tuple[type[XsegError], ...] = (NotFound, Exists, Busy, ReadOnly, NoSpace, Stale, Invalid, Damaged, Unsupported,
                                      TimedOut, WrongVersion, NoSlots, NoBuffers)
BY_ERRNO = {cls.default_errno: cls for cls in KINDS} | {errno.EDQUOT: NoSpace}


def error(code: int, text: str = "") -> XsegError:
    """The exception for an errno of either sign; text defaults to the system's words for it."""
    code = abs(code)
    return BY_ERRNO.get(code, XsegError)(code, text or os.strerror(code))


def check(rc: int, what: str = "") -> int:
    """Returns rc if it is no error, else raises. `what` names the thing that failed."""
    if rc >= 0:
        return rc
    words = os.strerror(-rc)
    raise error(rc, f"{what}: {words}" if what else words)
