# SPDX-License-Identifier: Apache-2.0
"""What the tests of the original's faults and scenarios share."""
import pytest


@pytest.fixture
def node(shared_instance):
    return shared_instance


@pytest.fixture
def ask(node):
    return node.client.control


@pytest.fixture
def name(request):
    return request.node.name.split("[")[0][5:]
