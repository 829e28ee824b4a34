# SPDX-License-Identifier: Apache-2.0
"""Serves one NBD client at standard input, by the server at SOCKET, and connects again when that is restarted.

python -m tools.mapping.keeper SOCKET ID serves the volume of that id, whatever it is called, and no other. nbdfuse
starts it (methods.py), and it ends with nbdfuse. See native/nbd/keeper.h. Exit status 1 when the server does not come
back.
"""
from __future__ import annotations

import errno
import os
import sys

from xseg import ours
from xseg._native import lib
from xseg.volume_name import by_id


def main() -> int:
    ours.close_umask()
    path, volume = sys.argv[1:]
    rc = lib.nbd_keep(0, os.fsencode(path), by_id(volume).encode(), volume.encode())
    if rc < 0:
        why = f"it serves no volume {volume}" if rc == -errno.ESTALE else os.strerror(-rc)
        print(f"{path}: {why}", file=sys.stderr, flush=True)
    return 1 if rc < 0 else 0


if __name__ == "__main__":
    os._exit(main())                # a thread of it may still wait for the client
