# SPDX-License-Identifier: Apache-2.0
"""An instance: its folder, its configuration, its processes, its end.

    config.py     archipelago.toml, checked
    instance.py   folders, segment, pid files; asking the supervisor
    host.py       what each process of a pipeline runs
    ending.py     saves what volumes hold, and stops all
    messages.py   what programs of an instance say to each other, decoded
    process.py    processes of this machine, by pid and start time
    stores.py     which folder and mount a file store is
    locking.py    one command at a time
"""
