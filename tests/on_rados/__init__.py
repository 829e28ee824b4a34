# SPDX-License-Identifier: Apache-2.0
"""Tests against a real Ceph cluster. A package, so that its conftest.py is not taken for that of tests/."""
