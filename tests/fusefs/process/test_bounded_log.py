# SPDX-License-Identifier: Apache-2.0
"""A log that does not outgrow its bound, and keeps what was said last."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from fusefs.process.bounded_log import BoundedHandler


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "", 0, text, (), None)


def test_a_log_stays_below_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("of the predecessor\n" * 10)
    with file.open("a") as stream:
        handler = BoundedHandler(stream.fileno(), largest=40_000)
        for number in range(5000):
            handler.emit(record(f"line {number} of many"))
            assert file.stat().st_size < 50_000
        os.write(stream.fileno(), b"said past the handler\n")
    lines = file.read_text().splitlines()
    assert lines[0] == "(what was here before is gone)"
    assert lines[-200:] == [
        *(f"line {number} of many" for number in range(4801, 5000)),
        "said past the handler",
    ]


def test_a_log_that_is_full_disturbs_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        BoundedHandler(full.fileno()).emit(record("nobody hears it"))
    assert capsys.readouterr().err == ""
