# SPDX-License-Identifier: Apache-2.0
"""The two benches of the volume tests: a fake host, and this host with a real tgt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fusefs.volume.bench import Bench
from tests.fusefs.volume.node import Node
from tests.support.tgt import TgtServer


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with TgtServer() as tgt:
        made = Node(tmp_path, tgt)
        yield made
        made.clean_up()
