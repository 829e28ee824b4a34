# SPDX-License-Identifier: Apache-2.0
"""The supervisor of an instance, which keeps its processes alive. See supervisor.py."""
