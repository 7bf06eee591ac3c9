# SPDX-License-Identifier: Apache-2.0
"""Who made each Mount: the notes on disk, and what they tell when somebody has died."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusefs.docker.callers import Callers, is_alive, name_of, process_of
from tests.support.logs import ExpectLogs
from tests.support.requirements import require

Start = Callable[[str], subprocess.Popen[bytes]]
US = process_of(os.getpid())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that calls itself as it is told."""
    started = []

    def begin(name: str) -> subprocess.Popen[bytes]:
        program = tmp_path / name
        if not program.exists():
            shutil.copy(require("sleep", "coreutils"), program)
        process = subprocess.Popen([program, "1000"])
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_a_process_is_its_number_and_its_start(start: Start) -> None:
    process = start("plugin")
    told = process_of(process.pid)
    assert told.startswith(f"{process.pid}:")
    assert is_alive(told)
    assert not is_alive(f"{process.pid}:1")  # another one had the number before
    end(process)
    assert not is_alive(told)
    assert process_of(process.pid) == ""


def test_a_process_that_is_not_seen_counts_as_alive() -> None:
    assert is_alive("")
    assert name_of("") == ""


def test_notes_outlive_us_and_go_with_the_last(tmp_path: Path) -> None:
    callers = Callers(tmp_path / "docker")
    callers.begin("data/1", "x", US)
    callers.begin("data/1", "x", US)
    callers.begin("data/1", "y", US)
    callers.answered("data/1", "x")
    (file,) = (tmp_path / "docker").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    again = Callers(tmp_path / "docker")
    assert again.volumes() == ["data/1"]
    found = again.calls("data/1")
    assert [(call.id, call.answered) for call in found] == [("x", True), ("x", False), ("y", False)]
    assert {call.caller for call in found} == {US}
    again.drop("data/1", "x")
    assert [(c.id, c.answered) for c in again.calls("data/1")] == [("x", True), ("y", False)]
    again.drop("data/1", "nobody")
    again.discard("data/1", again.calls("data/1"))
    assert list((tmp_path / "docker").iterdir()) == []
    assert again.calls("data/1") == again.volumes() == []


@pytest.mark.parametrize("other", ["boot_id", "version"])
def test_notes_of_another_boot_count_as_none(tmp_path: Path, other: str) -> None:
    callers = Callers(tmp_path)
    callers.begin("data", "x", US)
    file = tmp_path / "data.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), other: "other"}))
    assert callers.calls("data") == callers.volumes() == []


@pytest.mark.parametrize("spoilt", [{"calls": "other"}, {"calls": {}}, {"volume": 1}, None])
def test_notes_that_are_spoilt_count_as_none(
    tmp_path: Path, expect_logs: ExpectLogs, spoilt: dict[str, object] | None
) -> None:
    expect_logs("data.json: it cannot be read", logger="fusefs.docker")
    callers = Callers(tmp_path)
    callers.begin("data", "x", US)
    file = tmp_path / "data.json"
    values = json.loads(file.read_text())
    file.write_text("{" if spoilt is None else json.dumps({**values, **spoilt}))
    assert callers.calls("data") == callers.volumes() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", ""),
        ("id", 7),
        ("caller", "x:1"),
        ("caller", "17"),
        ("caller", "1:2\n"),
        ("caller", None),
        ("name", []),
        ("plugin", "-1:2"),
        ("plugin", 17),
        ("answered", 1),
    ],
)
def test_a_malformed_call_is_ignored_and_told(
    tmp_path: Path, expect_logs: ExpectLogs, key: str, value: object
) -> None:
    expect_logs("data.json: one of its calls is malformed", logger="fusefs.docker")
    callers = Callers(tmp_path)
    callers.begin("data", "x", US)
    callers.begin("data", "y", "")
    file = tmp_path / "data.json"
    values = json.loads(file.read_text())
    values["calls"][0][key] = value
    file.write_text(json.dumps(values))
    found = callers.calls("data")
    assert [call.id for call in found] == ["y"]
    assert not found[0].is_orphan
    callers.answered("data", "y")
    assert [call.answered for call in callers.calls("data")] == [True]


def test_a_call_is_an_orphan_when_its_dockerd_is_dead(tmp_path: Path, start: Start) -> None:
    callers = Callers(tmp_path / "docker")
    dockerd, podman = start("dockerd"), start("podman")
    callers.begin("data", "docker", process_of(dockerd.pid))
    callers.begin("data", "podman", process_of(podman.pid))
    callers.begin("data", "unseen", "")
    assert not any(call.is_orphan for call in callers.calls("data"))
    end(dockerd)
    end(podman)  # which ends with each command, while its containers live on
    assert [call.id for call in callers.calls("data") if call.is_orphan] == ["docker"]


def test_a_call_was_cut_off_when_we_died_over_it(tmp_path: Path, start: Start) -> None:
    plugin = start("plugin")
    callers = Callers(tmp_path / "docker")
    callers.begin("data", "x", US)
    file = tmp_path / "docker" / "data.json"
    assert not any(call.was_cut_off for call in callers.calls("data"))
    values = json.loads(file.read_text())
    values["calls"][0]["plugin"] = process_of(plugin.pid)
    file.write_text(json.dumps(values))
    end(plugin)
    assert [call.was_cut_off for call in callers.calls("data")] == [True]
    callers.answered("data", "x")  # of another one's call we know nothing
    assert [call.was_cut_off for call in callers.calls("data")] == [True]
