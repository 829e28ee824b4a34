# SPDX-License-Identifier: Apache-2.0
"""One module per peer type: its manual, its options and, for those that Python serves, its operations."""
