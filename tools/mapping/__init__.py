# SPDX-License-Identifier: Apache-2.0
"""Volumes as block devices of this machine.

    mapping.py    what is mapped, and how that begins and ends
    methods.py    the two ways: the kernel's NBD client; nbdfuse and a loop device
    keeper.py     the program that serves nbdfuse, and connects again
    blockdev.py   block devices: partitions, who uses them, flushing
"""
