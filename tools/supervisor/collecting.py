# SPDX-License-Identifier: Apache-2.0
"""The supervisor's timer for the collector: it has `archipelago collect --if-due` look whether a cycle is due, and run
it, in a process of its own with the lowest priority, which says what went wrong in log/collector.log.

It looks every LOOK_S seconds, or `every_s` if that is less, and not before the first of these has passed. Whatever
becomes of that process, the next look begins another. An instance without a mapper has no collector.
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys

from tools.instance.instance import Instance

LOOK_S = 600.0
log = logging.getLogger("supervisor")


class Collectors:
    """Looks from begin() on."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.task: asyncio.Task[None] | None = None
        self.child: asyncio.subprocess.Process | None = None

    def begin(self) -> None:
        config = self.instance.config
        if config.collector["enabled"] and "mapper" in config.roles:
            self.task = self.task or asyncio.get_running_loop().create_task(self.run())

    def close(self) -> None:
        """Looks no more. A cycle that is under way is ended: the next begins again."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self.child is not None and self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.child.kill()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_S, self.instance.config.collector["every_s"]))
            try:
                with self.instance.log_file("collector") as output:
                    self.child = await asyncio.create_subprocess_exec(
                        sys.executable, "-P", "-m", "tools.archipelago", "collect", "--if-due", "--home",
                        self.instance.home, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/")
                await self.child.wait()
            except OSError as failure:
                log.warning("the collector: %s", failure)
