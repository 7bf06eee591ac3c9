# SPDX-License-Identifier: Apache-2.0
"""The name of this host: configured, or made once and kept."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyscsi_init.errors import ConfigurationError, InvalidName
from pyscsi_init.names import check_iscsi_name
from pyscsi_init.transport import host_initiator_name

CONFIGURED = "iqn.1993-08.org.debian:01:abcdef"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setenv("PYSCSI_INIT_STATE_DIR", str(directory))
    return directory


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    return tmp_path / "no-such-file"


@pytest.mark.parametrize(
    "text",
    [
        f"InitiatorName={CONFIGURED}\n",
        f"## comment\n#InitiatorName=iqn.2000-01.x:no\n\n  InitiatorName = {CONFIGURED}  \nX=Y",
        f"GenerateName=yes\nInitiatorName={CONFIGURED}",
    ],
)
def test_the_configured_name_is_taken(tmp_path: Path, state: Path, text: str) -> None:
    file = tmp_path / "initiatorname.iscsi"
    file.write_text(text)
    assert host_initiator_name(file) == CONFIGURED
    assert not state.exists()


def test_a_configured_name_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "initiatorname.iscsi"
    file.write_text("InitiatorName=not a name\n")
    with pytest.raises(InvalidName):
        host_initiator_name(file)


@pytest.mark.parametrize(
    "content", [None, b"", b"GenerateName=yes\n", b"\xff\xfe", b"InitiatorName=\n"]
)
def test_else_a_name_is_made_and_kept(tmp_path: Path, content: bytes | None, state: Path) -> None:
    file = tmp_path / "initiatorname.iscsi"
    if content is not None:
        file.write_bytes(content)
    name = host_initiator_name(file)
    assert check_iscsi_name(name) == name
    assert host_initiator_name(file) == name
    assert [path.name for path in state.iterdir()] == ["initiatorname"]


def test_of_many_that_make_one_all_get_the_same(nothing: Path, state: Path) -> None:
    names: list[str] = []
    barrier = threading.Barrier(16)

    def ask() -> None:
        barrier.wait()
        names.append(host_initiator_name(nothing))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 16
    assert len(set(names)) == 1
    assert [path.name for path in state.iterdir()] == ["initiatorname"]


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_is_replaced(nothing: Path, state: Path, content: bytes) -> None:
    """What a host that lost power may have left."""
    state.mkdir()
    (state / "initiatorname").write_bytes(content)
    name = host_initiator_name(nothing)
    assert host_initiator_name(nothing) == name


@pytest.mark.parametrize("content", [b"nonsense\n", b"\xff\xff\xff"])
def test_a_spoilt_file_is_told(nothing: Path, state: Path, content: bytes) -> None:
    """Another name would lose access rights and reservations: a person has to look."""
    state.mkdir()
    (state / "initiatorname").write_bytes(content)
    with pytest.raises(ConfigurationError):
        host_initiator_name(nothing)


def test_a_place_that_cannot_be_written(
    nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("PYSCSI_INIT_STATE_DIR", str(blocker / "below"))
    with pytest.raises(ConfigurationError, match="PYSCSI_INIT_STATE_DIR"):
        host_initiator_name(nothing)


def test_the_usual_places(nothing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSCSI_INIT_STATE_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    name = host_initiator_name(nothing)
    assert (tmp_path / "xdg/pyscsi-init/initiatorname").read_text() == name + "\n"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    host_initiator_name(nothing)
    assert (tmp_path / "home/.local/state/pyscsi-init/initiatorname").exists()


def test_nobody_without_a_home(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs with a user number of its own."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PYSCSI_INIT_STATE_DIR")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigurationError, match="PYSCSI_INIT_STATE_DIR"):
        host_initiator_name(nothing)
