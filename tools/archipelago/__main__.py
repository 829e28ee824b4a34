# SPDX-License-Identifier: Apache-2.0
"""python -m tools.archipelago: the command `archipelago`, for those who know where Python is, but not the commands."""
import sys

from tools.archipelago import main

sys.exit(main())
