# SPDX-License-Identifier: Apache-2.0
"""Takes over the tests of another module: they run here with the fixtures of the folder that asks."""
import importlib
from typing import Any


def borrowed(module: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Everything a test module defines at its top level, less the tests named in `but`."""
    found = importlib.import_module(module)
    return {name: value for name, value in vars(found).items() if not name.startswith("__") and name not in but}
