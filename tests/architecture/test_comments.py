# SPDX-License-Identifier: Apache-2.0
"""No comment names an issue, a plan or work to be done: a reader cannot look those up.

What is left to do belongs into the tracker, and why something is as it is stands in the comment
itself. Identifiers of requirements are fine where docs/compliance defines them.
"""

from __future__ import annotations

import functools
import re

import pytest

from tests.support.source import name_of, project_files, prose, python_files, text_of

WORDS = (
    "TO" + "DO",
    "FIX" + "ME",
    "X" * 3,
    "HACK",
    r"(?i:\bissues? #?\d+)",
    r"(?<![\w&/])#\d+\b",
    r"(?i:\bphase \d)",
    r"(?i:\bmilestones? \d)",
    r"(?i:\b(ticket|sprint|user story|roadmap)\b)",
    r"(?i:\bthe (plan|contract|brief)\b(?= (says|asks|wants|of)))",
    r"\b(ARCHITECTURE|STYLE|CONFORMANCE|PEERS|TESTBED|CONTRACT|CSI-FIELDS)\.md\b",
)
FORBIDDEN = re.compile("|".join(f"(?:{word})" for word in WORDS))
IDENTIFIER = re.compile(r"(?<![\w-])[A-Z]{3,6}-\d{3}\b")


@functools.cache
def defined_identifiers() -> frozenset[str]:
    return frozenset(
        identifier
        for path in project_files()
        if name_of(path).startswith("docs/compliance/")
        for identifier in IDENTIFIER.findall(text_of(path))
    )


def problem_with(text: str) -> str:
    if match := FORBIDDEN.search(text):
        return match[0]
    unknown = [each for each in IDENTIFIER.findall(text) if each not in defined_identifiers()]
    return ", ".join(each for each in unknown if not each.startswith(("SHA", "UTF", "CRC", "ISO")))


def test_no_comment_names_what_a_reader_cannot_find() -> None:
    found = [
        f"{name_of(path)}:{line}: {why}"
        for path in python_files()
        for line, text in prose(path)
        if (why := problem_with(text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("# " + "TO" + "DO: later", False),
        ("# see issue 12", False),
        ("# fixed in (#12)", False),
        ("# done in phase 2", False),
        ("# pitfall ZZZ-007 of the catalogue", False),
        ("# in the login phase a digest is illegal", True),
        ("# SHA-256 and UTF-8", True),
        ("# RFC 7143 11.3", True),
    ],
)
def test_the_law_itself(text: str, allowed: bool) -> None:
    assert (problem_with(text) == "") is allowed
