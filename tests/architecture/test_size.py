# SPDX-License-Identifier: Apache-2.0
"""No source file is longer than 400 lines: a longer one holds two things that have two names.

The exceptions are listed with their reason; generated files say so in their first lines.
"""

from __future__ import annotations

import pytest

from tests.support.source import name_of, python_files, text_of

LIMIT = 400

ALLOWANCES: dict[str, tuple[int, str]] = {}
"""File -> (lines, why it cannot be two files)."""


def is_generated(text: str) -> bool:
    return any("GENERATED FROM" in line for line in text.splitlines()[:3])


def test_no_file_is_too_long() -> None:
    found = []
    for path in python_files():
        text = text_of(path)
        lines = len(text.splitlines())
        limit, _ = ALLOWANCES.get(name_of(path), (LIMIT, ""))
        if lines > limit and not is_generated(text):
            found.append(f"{name_of(path)} has {lines} lines, {limit} are allowed")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ALLOWANCES or [None])
def test_no_allowance_is_stale(name: str | None) -> None:
    if name is not None:
        lines = {name_of(path): len(text_of(path).splitlines()) for path in python_files()}
        assert LIMIT < lines[name] <= ALLOWANCES[name][0]
