# SPDX-License-Identifier: Apache-2.0
"""What is printed: aligned and plain where nobody watches, and never a control character."""

from __future__ import annotations

import pytest

from fusefs.cli import output


def test_control_characters_of_a_target_are_shown_as_text() -> None:
    assert output.printable("a\x1b[2Jb\n\u202e") == "a\\x1b[2Jb\\n\\u202e"


def test_a_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("A", "LONGER"), [("value", 1), ("v", "\x07")])
    assert capsys.readouterr().out == "A      LONGER\nvalue  1\nv      \\x07\n"


def test_fields_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.fields({"one": {"a": 1, "long": 2}, "two": {"b": "x\ny"}})
    assert capsys.readouterr().out == "one\n  a     1\n  long  2\ntwo\n  b     x\\ny\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert output.size_text(size) == text


def test_steps_are_told_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with output.steps(output.Invocation()) as step:
        step("silent")
    with output.steps(output.Invocation(verbose=1)) as step:
        step("told")
    assert capsys.readouterr().err == "pyscsi-init: told\n"
