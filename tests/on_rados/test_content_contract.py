# SPDX-License-Identifier: Apache-2.0
"""What native/objects/blocker.h promises of contents, of blocker-rados."""
import pytest
from borrow import borrowed
from loops import peers

globals().update(borrowed("test_content_contract", but=("served",)))


@pytest.fixture(scope="module")
def served(cluster):
    options = {"conf": cluster.conf, "pool": "volumes", "namespace": "contents"}
    with peers(("b", "blocker-rados", options)) as made:
        yield made
