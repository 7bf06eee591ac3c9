# SPDX-License-Identifier: Apache-2.0
"""The units in deploy/systemd: systemd takes them, and they say what volumes need."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest

from tests.support.requirements import require
from tests.support.source import ROOT

UNITS = ROOT / "deploy" / "systemd"
PROGRAM = "/usr/local/bin/pyscsi-init"
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
    # The engine's unit, so that an order that runs in circles would be found.
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
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
