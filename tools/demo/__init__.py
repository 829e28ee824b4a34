# SPDX-License-Identifier: Apache-2.0
"""`make demo`: see __main__.py."""
