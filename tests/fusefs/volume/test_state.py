# SPDX-License-Identifier: Apache-2.0
"""State files: a round trip, replaced whole or not at all; a damaged one is never guessed at."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from fusefs.process.pids import WorkerIdentity
from fusefs.spec import VolumeSpec
from fusefs.volume.state import (
    STATE_VERSION,
    Bind,
    StateUnreadable,
    VolumeState,
    boot_id,
    clear_unfinished,
    load_state,
    save_state,
    write_json,
)

SPEC = VolumeSpec(name="data", url="iscsi://127.0.0.1/iqn.2026-01.com.example:disk1/1")
FULL = VolumeState(
    spec=SPEC,
    phase="mounted",
    boot_id=boot_id(),
    worker=WorkerIdentity(123, 456),
    facts={"size_bytes": 1 << 30, "identity": {"text": "naa.6000"}},
    loop={"path": "/dev/loop7", "number": 7, "diskseq": 99},
    mountpoint="/mnt/data",
    binds=(Bind("/srv/a", False), Bind("/srv/b", True)),
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert load_state(path) is None
    save_state(path, FULL)
    loaded = load_state(path)
    assert loaded is not None
    assert loaded.to_json() == FULL.to_json()
    assert loaded.worker == FULL.worker
    assert loaded.binds == FULL.binds
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["state.json"]


def test_what_a_dead_writer_left_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    """Whatever number the writer has in its name: it may be another process namespace's."""
    dead, own = tmp_path / ".a.json.999999999.new", tmp_path / f".b.json.{os.getpid()}.new"
    living = tmp_path / ".c.json.999999998.new"
    for path in (dead, own, living, tmp_path / "d.json"):
        path.touch()
    with living.open("r+b") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        clear_unfinished(tmp_path)
        clear_unfinished(tmp_path / "not there")
        assert set(os.listdir(tmp_path)) == {living.name, "d.json"}
    clear_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["d.json"]


def test_two_writers_of_one_number_do_not_meet_in_one_file(tmp_path: Path) -> None:
    """Two process namespaces over one state directory: the second waits, and writes its own."""
    path = tmp_path / "state.json"
    temporary = tmp_path / f".state.json.{os.getpid()}.new"
    with temporary.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = threading.Thread(target=write_json, args=(path, {"whose": "ours"}))
        writer.start()
        other.write(b'{"whose": "theirs"}')
        other.flush()
        temporary.rename(path)
    writer.join(20)
    assert json.loads(path.read_text()) == {"whose": "ours"}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_state(path, FULL)
    with pytest.raises(TypeError):
        write_json(path, {"not json": object()})
    loaded = load_state(path)
    assert loaded is not None
    assert loaded.to_json() == FULL.to_json()
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({**FULL.to_json(), "version": STATE_VERSION + 1}),
        json.dumps({**FULL.to_json(), "phase": "dancing"}),
        json.dumps({**FULL.to_json(), "worker": {"pid": "x", "start_time": 1}}),
        json.dumps({**FULL.to_json(), "binds": [{}]}),
        json.dumps({**FULL.to_json(), "spec": {"url": "nonsense"}}),
        json.dumps({key: value for key, value in FULL.to_json().items() if key != "facts"}),
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StateUnreadable):
        load_state(path)


def test_a_spec_names_the_files_of_secrets_and_holds_none() -> None:
    fields = [name for name in FULL.to_json()["spec"] if "secret" in name or "password" in name]
    assert fields == ["chap_secret_file", "chap_peer_secret_file"]
