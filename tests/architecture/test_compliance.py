# SPDX-License-Identifier: Apache-2.0
"""The compliance page is fresh, names no row and no clause that is not there, and hides nothing."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.test_citations import SECTIONS
from tests.conformance import page, quirks

UNH = re.compile(r"(LOGIN|FFP|CHAP) \d+(\.\d+){0,3}(-\d+(\.\d+){0,3})?")


def test_the_page_is_fresh() -> None:
    """``python -m tests.conformance.page`` makes it so."""
    assert page.PAGE.read_text() == page.render()


def test_the_page_of_quirks_is_fresh() -> None:
    """The same command makes it so."""
    assert quirks.PAGE.read_text() == quirks.render(page.quirks_shown())


def test_every_quirk_is_shown_or_has_a_reason() -> None:
    known = quirks.quirks()
    assert [quirk.id for quirk in known] == [f"Q-{number:02d}" for number in range(1, 42)]
    shown = page.quirks_shown()
    assert set(shown) <= {quirk.id for quirk in known}
    for quirk in known:
        assert bool(quirk.reason) != (quirk.id in shown), f"{quirk.id}: a test, or else a reason"


def test_every_row_has_its_place() -> None:
    rows = page.rows()
    assert len(rows) == len({row.id for row in rows}) == 260
    levels = {level: sum(row.level == level for row in rows) for level in {r.level for r in rows}}
    assert levels == {"MUST": 214, "ROBUST": 26, "SHOULD": 18, "MAY": 2}
    assert {row.group for row in rows} == set(page.GROUPS)
    numbers: dict[str, int] = {}
    for row in rows:
        numbers[row.group] = numbers.get(row.group, 0) + 1
        assert row.id == f"{row.group}-{numbers[row.group]:03d}", "rows are numbered in order"


def test_every_clause_exists() -> None:
    for row in page.rows():
        missing = [clause for clause in row.clauses if clause not in SECTIONS]
        assert not missing, f"{row.id} cites RFC 7143 {missing}"
        assert all(UNH.fullmatch(test) for test in row.unh), row.unh


def test_no_test_claims_a_row_that_does_not_exist() -> None:
    known = {row.id for row in page.rows()}
    for row, entry in page.shown().items():
        assert row in known, f"{[*entry.tests, *entry.failing]} claim {row}"


def test_exceptions_are_of_rows_that_nothing_shows() -> None:
    shown = {row for row, entry in page.shown().items() if entry.tests}
    known = {row.id for row in page.rows()} | set(page.GROUPS)
    assert set(page.exceptions()) <= known
    assert set(page.notes()) <= known
    covered = {row.id for row in page.rows() if row.group in page.exceptions()}
    assert not (shown & (covered | set(page.exceptions()))), "shown, and excused all the same"
    assert all(reason.strip() for reason in page.exceptions().values())


def test_no_row_is_open() -> None:
    found, excused = page.shown(), page.exceptions()
    open_rows = [row.id for row in page.rows() if page.status(row, found, excused)[0] == "open"]
    assert not open_rows or not page.ALL_ROWS_MUST_BE_SHOWN, open_rows
    assert open_rows or page.ALL_ROWS_MUST_BE_SHOWN, "none is open: say so in ALL_ROWS_MUST..."


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def test_pdu_001_order(): ...", [("test_pdu_001_order", "PDU-001", False)]),
        ("async def test_seq_015(): ...", [("test_seq_015", "SEQ-015", False)]),
        (
            "def test_asy_001_002_two(): ...",
            [("test_asy_001_002_two", f"ASY-00{number}", False) for number in (1, 2)],
        ),
        ("def test_other(): ...", []),
        ('@pytest.mark.quirk("Q-01")\ndef test_quirk_02_a(): ...', []),
        ("def pdu_001(): ...", []),
        (
            '@conformance("PDU-002", "SEQ-001")\ndef test_a(): ...',
            [("test_a", "PDU-002", False), ("test_a", "SEQ-001", False)],
        ),
        (
            '@pytest.mark.conformance("PDU-001")\ndef test_pdu_001_a(): ...',
            [("test_pdu_001_a", "PDU-001", False)],
        ),
        (
            '@pytest.mark.xfail(reason="")\ndef test_pdu_001_a(): ...',
            [("test_pdu_001_a", "PDU-001", True)],
        ),
        (
            'pytestmark = [mark.anyio, mark.conformance("PDU-003")]\ndef test_a(): ...',
            [("test_a", "PDU-003", False)],
        ),
    ],
)
def test_claims_are_read(source: str, found: list[tuple[str, str, bool]]) -> None:
    assert list(page.claims(ast.parse(source))) == found


def test_claims_of_quirks_are_read() -> None:
    source = '@pytest.mark.quirk("Q-01")\n@pytest.mark.conformance("SEQ-001")\n'
    source += "def test_quirk_02_03_a(): ..."
    found = [quirk for _, quirk, _ in page.claims(ast.parse(source), "quirk", quirks.by_name)]
    assert found == ["Q-02", "Q-03", "Q-01"]
