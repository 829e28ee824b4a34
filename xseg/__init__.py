# SPDX-License-Identifier: Apache-2.0
"""The segment from Python: joining it, ports, requests, clients, peers served by Python."""
