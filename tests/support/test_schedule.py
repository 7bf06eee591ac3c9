# SPDX-License-Identifier: Apache-2.0
"""Long files come first, short ones fill the time beside them, and every test is given out once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("xdist")

from tests.support.schedule import LONG, LongFirst, missing_files

SHORT = {"tests/test_few.py": 2, "tests/test_more.py": 6, "tests/test_many.py": 9}


class Node:
    """What the scheduler uses of a process of the run."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.given: list[int] = []

    def send_runtest_some(self, indexes: list[int]) -> None:
        self.given += indexes

    def shutdown(self) -> None:
        self.shutting_down = True


def collection() -> list[str]:
    files = {**SHORT, **dict.fromkeys(reversed(LONG[:4]), 3)}
    return [f"{name}::test_{number}" for name, count in files.items() for number in range(count)]


def run(names: list[str]) -> dict[str, list[str]]:
    """The files that each process gets, where each test takes as long as any other."""
    config: Any = SimpleNamespace(
        option=SimpleNamespace(loadscopereorder=True),
        getvalue=lambda _: [f"{len(names)}*popen"],
    )
    scheduler = LongFirst(config)
    nodes = [Node(name) for name in names]
    tests = collection()
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    ended = {node.gateway.id: 0 for node in nodes}
    while not all(ended[node.gateway.id] == len(node.given) for node in nodes):
        for node in nodes:
            if ended[node.gateway.id] < len(node.given):
                scheduler.mark_test_complete(node, node.given[ended[node.gateway.id]])
                ended[node.gateway.id] += 1
    given = [index for node in nodes for index in node.given]
    assert sorted(given) == list(range(len(tests)))
    return {
        node.gateway.id: list(dict.fromkeys(tests[index].split("::")[0] for index in node.given))
        for node in nodes
    }


def test_two_from_the_long_end_and_one_from_the_other() -> None:
    files = run(["gw0", "gw1", "gw2"])
    assert files["gw0"][0] == "tests/test_many.py"
    assert (files["gw1"][0], files["gw2"][0]) == LONG[:2]
    assert {files["gw1"][1], files["gw2"][1]} == {*LONG[2:4]}


def test_one_process_gets_all() -> None:
    assert len(run(["gw0"])["gw0"]) == 7


def test_what_is_named_as_long_is_there() -> None:
    assert missing_files() == []
    assert len(set(LONG)) == len(LONG)
