# SPDX-License-Identifier: Apache-2.0
"""The page of quirks: what targets do, what is done about it, and the test that shows it.

Made like the page of rows, from quirks.toml and the markers ``quirk("Q-01")``; ``python -m
tests.conformance.page`` writes both.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs/compliance/quirks.md"

MARKER = "quirk"
BY_NAME = re.compile(r"test_quirk((?:_\d{2})+)(?:_|$)")

INTRODUCTION = """\
# Quirks of targets

What targets are known to do that the standard does not say or forbids, and what this initiator does
about it. A habit was seen in the source of the target, in its documents, in public reports, or (tgt
1.0.85, istgt 0.4) by running it; newer versions may have lost it. Where no name of a real target
stands in a test's path, a scripted one plays it ([reference](../reference/testing-target.md)).

This page is made by `python -m tests.conformance.page` from tests/conformance/quirks.toml and the
tests, and a test fails where it is not fresh.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirk:
    """One habit; ``reason`` where no test shows what is done about it."""

    id: str
    targets: str
    habit: str
    ours: str
    reason: str = ""


def quirks() -> list[Quirk]:
    """All of them, in the order of the list."""
    table = tomllib.loads((HERE / "quirks.toml").read_text())["quirk"]
    return [Quirk(**entry) for entry in table]


def by_name(test: str) -> list[str]:
    """The quirks that a test names in its own name."""
    named = BY_NAME.match(test)
    return [f"Q-{number}" for number in named[1].strip("_").split("_")] if named else []


def render(shown: dict[str, list[str]]) -> str:
    """The page as it should be; ``shown`` has the tests of each quirk."""
    lines = ["| quirk | targets | what they do | what we do | shown by |", "|---|---|---|---|---|"]
    for quirk in quirks():
        tests = "<br>".join(f"`{test}`" for test in shown.get(quirk.id, []))
        cell = tests or f"not shown: {quirk.reason or 'open'}"
        lines.append(f"| {quirk.id} | {quirk.targets} | {quirk.habit} | {quirk.ours} | {cell} |")
    return "\n".join([INTRODUCTION, *lines, ""])
