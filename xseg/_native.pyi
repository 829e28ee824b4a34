# SPDX-License-Identifier: Apache-2.0
"""The native half as types see it: what cffi makes has none. Values that leave it are given theirs by int(), bool()."""
from typing import Any

ffi: Any
lib: Any
