# SPDX-License-Identifier: Apache-2.0
"""Processes of another build do not join a segment whose words they would misread."""
import pytest

from xseg._build import LAYOUT, layout_number, read

TEXT = read(LAYOUT)


def test_comments_and_spaces_do_not_count():
    assert layout_number(TEXT.replace("/* atomic", "/*   of several processes, and atomic")) == layout_number(TEXT)


@pytest.mark.parametrize("old, new", [
    ("XOP_COUNT = ", "XOP_COUNT = 1"), ("XSEG_EDGE_MAX = 64", "XSEG_EDGE_MAX = 128"),
    ("uint32_t frozen;", "uint32_t frozen, thawed;"), ("uint32_t epoch_durable;", "uint64_t epoch_durable;"),
])
def test_another_number_size_or_member_is_another_layout(old, new):
    assert TEXT.count(old) == 1
    assert layout_number(TEXT.replace(old, new)) != layout_number(TEXT)
