# SPDX-License-Identifier: Apache-2.0
"""The program: python -m tools.supervisor --home HOME [PROCESS...]"""
import sys

from tools.supervisor.supervisor import main

sys.exit(main())
