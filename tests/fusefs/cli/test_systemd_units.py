# SPDX-License-Identifier: Apache-2.0
"""The units in deploy/systemd: systemd takes them, and they say what volumes need."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import click
import pytest

from fusefs.cli.app import cli
from fusefs.csi.identity import DRIVER_NAME
from tests.support.requirements import require
from tests.support.source import ROOT

UNITS = ROOT / "deploy" / "systemd"
PROGRAM = "/usr/local/bin/pyscsi-init"
CSI, DATA_PLANE = "pyscsi-init-csi.service", "pyscsi-init-data-plane.service"
SERVICE, SOCKET = "pyscsi-init-docker.service", "pyscsi-init-docker.socket"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def verify(directory: Path) -> subprocess.CompletedProcess[str]:
    analyze = require("systemd-analyze", "systemd")
    units = [str(path) for path in sorted(directory.glob("pyscsi-init-*"))]
    return subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that is there."""
    for file in UNITS.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace(PROGRAM, "/bin/true"))
    # The units of those who use volumes, so that an order that runs in circles would be found.
    for other in ("docker.service", "kubelet.service"):
        (tmp_path / other).write_text("[Service]\nExecStart=/bin/true\n")
    return tmp_path


def test_systemd_takes_them(units: Path) -> None:
    done = verify(units)
    assert done.returncode == 0, done.stderr
    assert "pyscsi-init" not in done.stderr


def test_systemd_would_not_take_a_mistake(units: Path) -> None:
    file = units / SERVICE
    file.write_text(file.read_text().replace("KillMode=process", "KillMode=nobody"))
    assert "kill mode" in verify(units).stderr


def test_it_starts_before_the_engine_and_takes_no_data_path_with_it() -> None:
    service, socket = unit(SERVICE), unit(SOCKET)
    assert service["Unit"]["Before"] == socket["Unit"]["Before"] == "docker.service"
    assert "network-online.target" in service["Unit"]["After"].split()
    assert service["Service"]["KillMode"] == "process"
    assert service["Service"]["Type"] == "notify"
    assert service["Unit"]["StartLimitIntervalSec"] == "0"
    assert socket["Socket"]["ListenStream"] == "/run/docker/plugins/pyscsi-init.sock"
    assert socket["Socket"]["FileDescriptorName"] == "docker"


def test_what_kubelet_needs_is_there_before_it_and_outlives_its_end() -> None:
    for name in (CSI, DATA_PLANE):
        service = unit(name)
        assert service["Unit"]["Before"] == "kubelet.service"
        assert service["Service"]["KillMode"] == "process"
        program, *arguments = service["Service"]["ExecStart"].replace("\\\n", " ").split()
        assert program == PROGRAM
        command = cli.get_command(click.Context(cli), arguments[0])
        assert command is not None
        command.make_context(arguments[0], arguments[1:])
    assert f"plugins/{DRIVER_NAME}/csi.sock" in unit(CSI)["Service"]["ExecStart"]
