# SPDX-License-Identifier: Apache-2.0
"""Volumes attached to sockets for virtual machines: what `vlmc attach`, `detach`, `attached` and those that print how a
machine is started share."""
