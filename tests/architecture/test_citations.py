# SPDX-License-Identifier: Apache-2.0
"""Each section of RFC 7143 that is cited exists, and where its title is given it is that title.

RFC 3720, which 7143 replaced, numbers its sections differently; a citation copied from there points
at something else, and nobody sees it. rfc7143_sections.txt is the table of contents.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.source import name_of, project_files, text_of

SECTIONS = dict(
    line.split("\t")
    for line in Path(__file__).with_name("rfc7143_sections.txt").read_text().splitlines()
    if not line.startswith("#")
)

NUMBER = r"(?:Appendix [A-E]\b|[A-E](?:\.\d+)+|\d+(?:\.\d+)+|\d+(?![\w.-]))"
CITATION = re.compile(
    rf"RFC ?7143,?(?: (?:sections?|clauses?))? ({NUMBER}(?:(?:,| and|, and| or) {NUMBER})*)"
)
OLD = re.compile(r"RFC ?3720,?(?: section)? \d+\.\d")
TITLED = re.compile(rf"^[#*|\s\"]*RFC ?7143 ({NUMBER}) ([A-Z][^.:\"|]+?)[.\s\"|]*$", re.MULTILINE)
SUFFIXES = {".py", ".md", ".toml", ".c"}


def cited(text: str) -> list[str]:
    """The section numbers that a text cites, with ranges and lists taken apart."""
    flat = re.sub(r"\s*\n[ \t#*]*", " ", text)
    return [number for match in CITATION.finditer(flat) for number in re.findall(NUMBER, match[1])]


def sources() -> list[Path]:
    return [path for path in project_files() if path.suffix in SUFFIXES and path != Path(__file__)]


def test_each_cited_section_exists() -> None:
    found = [
        f"{name_of(path)} cites RFC 7143 {number}, which does not exist"
        for path in sources()
        for number in cited(text_of(path))
        if number not in SECTIONS
    ]
    assert not found, "\n".join(found)


def test_each_given_title_is_the_title() -> None:
    """Checked where whole lines are citations: the conformance tests and the compliance tables."""
    found = [
        f"{name_of(path)}: RFC 7143 {number} is {SECTIONS.get(number)!r}, not {title!r}"
        for path in sources()
        if name_of(path).startswith(("tests/conformance/", "docs/compliance/"))
        for number, title in TITLED.findall(text_of(path))
        if SECTIONS.get(number) != title
    ]
    assert not found, "\n".join(found)


def test_nothing_is_cited_by_the_old_numbers() -> None:
    found = [
        f"{name_of(path)}: {match[0]}"
        for path in sources()
        for match in OLD.finditer(text_of(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("RFC 7143 13.14 forbids it", ["13.14"]),
        ("(RFC 7143 4.2.2.1).", ["4.2.2.1"]),
        ("RFC 7143 11.7, 11.8 and 4.2", ["11.7", "11.8", "4.2"]),
        ("RFC 7143 section 8", ["8"]),
        ("RFC 7143\n    # 11.4.2", ["11.4.2"]),
        ("RFC 7143 Appendix C", ["Appendix C"]),
        ("RFC 7143 numbers", []),
        ("RFC 7143 8-byte LUN", []),
    ],
)
def test_citations_are_read(text: str, numbers: list[str]) -> None:
    assert cited(text) == numbers


def test_the_list_is_the_rfcs() -> None:
    assert SECTIONS["4.2.2.1"] == "Command Numbering and Acknowledging"
    assert SECTIONS["13.15"] == "DefaultTime2Wait"
    assert SECTIONS["11.8"] == "Ready To Transfer (R2T)"
    assert "3.2.2.1" not in SECTIONS, "command numbering, by its number in RFC 3720"
