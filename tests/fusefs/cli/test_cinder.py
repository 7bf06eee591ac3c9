# SPDX-License-Identifier: Apache-2.0
"""attach and mount with --cinder: what Cinder says, from a file or from standard input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusefs.cli import exit_codes
from fusefs.cli.app import run_command
from tests.fusefs.cli.harness import IQN, MEBI, SECRET, USER, Cli
from tests.support.source import ROOT
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.tgt, pytest.mark.root]

NAME = "cinder-5d7a2c1e"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TgtServer]:
    """A blank LUN behind CHAP."""
    with TgtServer() as server:
        server.new_target(IQN)
        server.require_chap(1, USER, SECRET)
        server.add_lun(1, 1, tmp_path / "lun1", size_bytes=64 * MEBI)
        yield server
        server.wait_sessions(0)


def connection(disk: TgtServer, **changes: Any) -> dict[str, Any]:
    data = {"target_portal": disk.portal, "target_iqn": IQN, "target_lun": 1}
    data |= {"auth_method": "CHAP", "auth_username": USER, "auth_password": SECRET}
    data |= {"volume_id": "5d7a2c1e", "qos_specs": {"total_iops_sec": 100}}
    return {"driver_volume_type": "iscsi", "data": data | changes}


def write(path: Path, info: object, mode: int = 0o600) -> Path:
    path.write_text(json.dumps(info))
    path.chmod(mode)
    return path


def in_this_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """For what ends before anything is done."""
    status = run_command([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert shown.out == ""
    return status, shown.err


def test_attach(
    disk: TgtServer, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "c.json", connection(disk), 0o640)
    status, error = in_this_process(capsys, "attach", "--cinder", file)
    assert (status, "chmod 600" in error) == (exit_codes.USAGE, True), error
    file.chmod(0o600)
    done = cli("attach", "--cinder", file)
    assert done.status == 0, done
    assert Path(done.out.strip()).stat().st_size == 64 * MEBI
    assert "total_iops_sec" in done.err
    assert SECRET not in done.out + done.err
    cli("attach", "--cinder", file).failed(exit_codes.IN_USE)
    assert cli("detach", NAME).status == 0


def test_mount_from_standard_input(disk: TgtServer, cli: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "mnt"
    directory.mkdir()
    file = write(tmp_path / "c.json", connection(disk), 0o644)  # the shell's to give
    arguments = ("mount", "--cinder", "-", directory, "--format-if-blank", "--json")
    with file.open("rb") as stdin:
        process = subprocess.run(
            [sys.executable, "-m", "fusefs.cli", *map(str, arguments)],
            stdin=stdin, capture_output=True, text=True, env=cli.environment, cwd=ROOT,
            timeout=60, check=False,
        )  # fmt: skip
    assert process.returncode == 0, process
    mounted = json.loads(process.stdout)
    assert (mounted["name"], mounted["mountpoint"]) == (NAME, str(directory))
    (directory / "file").write_text("content")
    assert cli("umount", directory).status == 0
    read_only = write(tmp_path / "c.json", connection(disk, access_mode="ro"))
    done = cli("mount", "--cinder", read_only, directory, "--name", "mine")
    assert done.out.startswith("mine: "), done
    assert (directory / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (directory / "new").touch()
    assert cli("umount", "mine").status == 0


URL = f"iscsi://192.0.2.7/{IQN}/1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("attach",), "--cinder FILE"),
        (("attach", URL, "--cinder", "FILE"), "exclude each other"),
        (("mount", URL), "'DIR'"),
        (("mount", "--cinder", "FILE"), "'DIR'"),
        (("mount", URL, "/mnt", "--cinder", "FILE"), "exclude each other"),
        (("attach", "--cinder", "FILE", "--chap-user", "bob"), "give one"),
        (("attach", "--cinder", "/nonexistent/file"), "No such file"),
        (("attach", "--cinder", "ENCRYPTED"), "encrypted"),
    ],
)
def test_arguments_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    data = {"target_portal": "192.0.2.7", "target_iqn": IQN, "target_lun": 1, "volume_id": "x"}
    data |= {"auth_method": "CHAP", "auth_username": USER, "auth_password": SECRET}
    files = {
        "FILE": write(tmp_path / "file", data),
        "ENCRYPTED": write(tmp_path / "encrypted", data | {"encrypted": True}),
    }
    given = [files.get(argument, argument) for argument in arguments]
    status, error = in_this_process(capsys, *given)
    assert status == exit_codes.USAGE
    assert says in error
    assert error.count("\n") == 1
