# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGHUP end a command as SIGINT does: by an exception, so that what it had half-made is cleared away.

While that goes on, further ones are ignored; it is bounded in time. kill -9 leaves what the command's manual says.
"""
from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """By the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def raised() -> None:
    """From now on. One that is ignored already (nohup) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """What comes meanwhile is raised at the end: for what must not be left half-way, and is short."""
    global _holding, _came
    _holding = True
    try:
        yield
    finally:
        _holding, came, _came = False, _came, 0
    if came:
        _raise(came, None)


_holding, _came = False, 0


def _raise(number: int, _frame: Any) -> None:
    global _came
    if _holding:
        _came = number
        return
    for other in SIGNALS:
        signal.signal(other, _ignore)
    raise Interrupted(number)


def _ignore(_number: int, _frame: Any) -> None:
    """Not SIG_IGN, which children would inherit."""
