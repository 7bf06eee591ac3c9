# SPDX-License-Identifier: Apache-2.0
"""The compliance page: which test shows which requirement.

``python -m tests.conformance.page`` writes docs/compliance/rfc7143.md from requirements.toml,
exceptions.toml and the tests themselves, which are read and not run; and quirks.md, see quirks.py.
A test shows a row by its name (``test_pdu_001_...``, ``test_pdu_001_002_...``), or by the marker
``conformance("PDU-002", ...)`` on it or in its module's ``pytestmark``. A test that is expected to
fail shows nothing.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance import quirks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs/compliance/rfc7143.md"

ALL_ROWS_MUST_BE_SHOWN = True
"""True once no row is open: from then on none may become so."""

GROUPS = {
    "PDU": "PDU format, framing, digests",
    "SEQ": "Sequence numbers",
    "LOGIN": "Login phase",
    "NEG": "Text negotiation and operational keys",
    "SEC": "Security",
    "FFP": "Full feature phase: commands, data, responses",
    "TMF": "Task management",
    "NOP": "NOP-Out and NOP-In",
    "TXT": "Text requests",
    "LGO": "Logout",
    "ASY": "Asynchronous messages",
    "REJ": "Reject",
    "SNK": "SNACK",
    "ERL": "Error recovery",
    "MCS": "Several connections in a session",
    "DISC": "Discovery sessions and SendTargets",
    "ISNS": "iSNS and SLP",
    "NAME": "Names and addresses",
    "TMO": "Timeouts and limits",
    "SCSI": "The SCSI layer",
}

BY_NAME = re.compile(r"test_([a-z]+)((?:_\d{3})+)(?:_|$)")
MARKER = "conformance"
INTRODUCTION = """\
# RFC 7143, row by row

What an iSCSI initiator owes its target, and the test that shows that this one pays it. The level is
the standard's, or ROBUST for what it leaves open and the field needs. Clauses without a name are of
RFC 7143. The tests run against a target that does what a script says
([reference](../reference/testing-target.md)); whatever else a test is about, everything that the
initiator sends in it is held against the rules for numbers, tags, lengths and reserved bits.

This page is made by `python -m tests.conformance.page` from the tests, and a test fails where it is
not fresh.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement."""

    id: str
    level: str
    requirement: str
    clauses: tuple[str, ...]
    other: tuple[str, ...] = ()
    unh: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """What it belongs to."""
        return self.id.split("-", maxsplit=1)[0]


@dataclass(slots=True)
class Shown:
    """The tests of a row, and those that are expected to fail."""

    tests: list[str] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)


def rows() -> list[Row]:
    """All requirements, in the order of the list."""
    table = tomllib.loads((HERE / "requirements.toml").read_text())["row"]
    return [Row(**{name: _frozen(value) for name, value in row.items()}) for row in table]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def exceptions() -> dict[str, str]:
    """Row or group -> why no test shows it."""
    found: dict[str, str] = tomllib.loads((HERE / "exceptions.toml").read_text())["exceptions"]
    return found


def notes() -> dict[str, str]:
    """Row -> what else there is to say."""
    found: dict[str, str] = tomllib.loads((HERE / "exceptions.toml").read_text())["notes"]
    return found


# -- the tests, read ------------------------------------------------------------------------------


def by_name(test: str) -> list[str]:
    """The rows that a test names in its own name."""
    named = BY_NAME.match(test)
    numbers = named[2].strip("_").split("_") if named else []
    return [f"{named[1].upper()}-{number}" for number in numbers] if named else []


def shown(marker: str = MARKER, named: Callable[[str], list[str]] = by_name) -> dict[str, Shown]:
    """Row -> the tests that show it."""
    found: dict[str, Shown] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text()
        name = str(path.relative_to(ROOT))
        for test, row, failing in claims(ast.parse(text), marker, named):
            entry = found.setdefault(row, Shown())
            (entry.failing if failing else entry.tests).append(f"{name}::{test}")
    return found


def quirks_shown() -> dict[str, list[str]]:
    """Quirk -> the tests that show what is done about it."""
    found = shown(quirks.MARKER, quirks.by_name)
    return {quirk: entry.tests for quirk, entry in found.items() if entry.tests}


def claims(
    module: ast.Module, marker: str = MARKER, named: Callable[[str], list[str]] = by_name
) -> Iterator[tuple[str, str, bool]]:
    """Test, row, and whether the test is expected to fail; a row at most once a test."""
    of_module = [
        row
        for node in module.body
        if isinstance(node, ast.Assign)
        and any(isinstance(each, ast.Name) and each.id == "pytestmark" for each in node.targets)
        for row in _marked(node.value, marker)
    ]
    for node in module.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if not node.name.startswith("test_"):
            continue
        claimed = named(node.name)
        claimed += [row for decorator in node.decorator_list for row in _marked(decorator, marker)]
        failing = any("xfail" in ast.unparse(decorator) for decorator in node.decorator_list)
        for row in dict.fromkeys(claimed + of_module):
            yield node.name, row, failing


def _marked(node: ast.expr, marker: str) -> Iterator[str]:
    """The arguments of every ``marker(...)`` in an expression."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and ast.unparse(each.func).split(".")[-1] == marker:
            for argument in each.args:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value)


# -- the page -------------------------------------------------------------------------------------


def status(row: Row, found: dict[str, Shown], excused: dict[str, str]) -> tuple[str, str]:
    """One word for the summary (shown, exception, open), and the cell of the table."""
    entry = found.get(row.id, Shown())
    if entry.tests:
        return "shown", "<br>".join(f"`{test}`" for test in entry.tests)
    reason = excused.get(row.id) or excused.get(row.group)
    if reason:
        return "exception", f"exception: {reason}"
    if entry.failing:
        return "open", "expected to fail: " + "<br>".join(f"`{test}`" for test in entry.failing)
    return "open", "open"


def _clauses(row: Row) -> str:
    parts = [", ".join(row.clauses), *row.other]
    if row.unh:
        parts.append("UNH " + ", ".join(row.unh))
    return "; ".join(part for part in parts if part)


def render() -> str:
    """The page as it should be."""
    found, excused, remarks = shown(), exceptions(), notes()
    tables: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    for group, title in GROUPS.items():
        count = counts[group] = {"shown": 0, "exception": 0, "open": 0}
        lines = [f"## {group}: {title}", "", "| row | level | requirement | clause | shown by |"]
        lines.append("|---|---|---|---|---|")
        for row in (row for row in rows() if row.group == group):
            word, cell = status(row, found, excused)
            count[word] += 1
            if row.id in remarks:
                cell += f"<br>{remarks[row.id]}"
            requirement = row.requirement.replace("|", "\\|")
            lines.append(f"| {row.id} | {row.level} | {requirement} | {_clauses(row)} | {cell} |")
        tables.append("\n".join([*lines, ""]))
    return "\n".join([INTRODUCTION, _summary(counts), *tables])


def _summary(counts: dict[str, dict[str, int]]) -> str:
    lines = ["| group | rows | shown | exceptions | open |", "|---|---|---|---|---|"]
    for group, count in counts.items():
        lines.append(
            f"| {group} | {sum(count.values())} | {count['shown']} | {count['exception']} "
            f"| {count['open']} |"
        )
    total = {word: sum(count[word] for count in counts.values()) for word in ("shown", "exception")}
    every = sum(sum(count.values()) for count in counts.values())
    missing = every - sum(total.values())
    lines.append(f"| all | {every} | {total['shown']} | {total['exception']} | {missing} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render())
    quirks.PAGE.write_text(quirks.render(quirks_shown()))
