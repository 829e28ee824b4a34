# SPDX-License-Identifier: Apache-2.0
"""What virtual machines are started with to get a volume as a disk."""
from __future__ import annotations

import json
from typing import Any
from xml.sax.saxutils import quoteattr

from tools.attaching.attaching import Attaching, Entry
from xseg.errors import NotFound
from xseg.volume_name import by_id

XML_MEMORY = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
XML_RECONNECT_S = 300


def choose(home: str, info: dict[str, Any], via: str | None) -> tuple[str, Entry]:
    """How a volume is had, and its entry (of NBD: one that says nothing). NotFound: it is to be by vhost, and is not
    attached."""
    nothing = Entry(info["id"], info["name"], "", "")
    if via == "nbd":
        return "nbd", nothing
    for entry in Attaching(home).entries():
        if entry.id == info["id"]:
            return "vhost", entry
    if via == "vhost":
        raise NotFound(f"{info['name']} is not attached: `vlmc attach` it first")
    return "nbd", nothing


def doubled(text: str) -> str:
    """Text as a value of QEMU's comma-separated options."""
    return text.replace(",", ",,")


def shared_memory(size: str) -> list[str]:
    return ["-object", f"memory-backend-memfd,id=mem,size={size},share=on", "-M", "q35,memory-backend=mem", "-m", size]


def qemu_vhost(entry: Entry, index: int) -> list[str]:
    return ["-chardev", f"socket,id=arc-char{index},path={doubled(entry.socket)},reconnect=1",
            "-device", f"vhost-user-blk-pci,id=arc-disk{index},chardev=arc-char{index},num-queues={entry.queues}"]


def qemu_nbd(socket: str, info: dict[str, Any], index: int, reconnect_s: int) -> list[str]:
    node = {"driver": "nbd", "node-name": f"arc{index}", "server": {"type": "unix", "path": socket},
            "export": by_id(info["id"]), "reconnect-delay": reconnect_s, "discard": "unmap",
            "cache": {"direct": True}, "read-only": bool(info["readonly"])}
    return ["-blockdev", json.dumps(node, separators=(",", ":")),
            "-device", f"virtio-blk-pci,id=arc-disk{index},drive=arc{index},serial=arc-{info['id']}"]


def xml_vhost(entry: Entry, target: str) -> str:
    return f"""<disk type='vhostuser' device='disk'>
  <driver name='qemu' type='raw' queues='{entry.queues}'/>
  <source type='unix' path={quoteattr(entry.socket)}>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <target dev={quoteattr(target)} bus='virtio'/>
</disk>
"""


def xml_nbd(socket: str, info: dict[str, Any], target: str) -> str:
    readonly = "  <readonly/>\n" if info["readonly"] else ""
    return f"""<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='none' discard='unmap'/>
  <source protocol='nbd' name={quoteattr(by_id(info["id"]))}>
    <host transport='unix' socket={quoteattr(socket)}/>
    <reconnect delay='{XML_RECONNECT_S}'/>
  </source>
  <target dev={quoteattr(target)} bus='virtio'/>
  <serial>arc-{info["id"]}</serial>
{readonly}</disk>
"""
