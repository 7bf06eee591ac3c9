# SPDX-License-Identifier: Apache-2.0
"""What runs in a mount namespace of its own does not have the volumes mounted, and we have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusefs.host import LinuxHost, own_mounts
from tests.fusefs.host.conftest import MakeDevice
from tests.support.requirements import require


def test_in_the_first_pid_namespace_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own_mounts, "ends_as_a_whole", lambda: False)
    assert LinuxHost().own_mounts_command(str(tmp_path)) == []


@pytest.mark.root
def test_another_pid_namespace_is_seen_as_one() -> None:
    code = "from fusefs.host import LinuxHost; print(LinuxHost().ends_as_a_whole())"
    python = [sys.executable, "-c", code]
    apart = [require("unshare"), "--pid", "--fork", "--", *python]
    assert subprocess.run(apart, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.root
@pytest.mark.parametrize("places", [0, 1, 2])
def test_volumes_are_not_mounted_in_it(
    host: LinuxHost,
    make_device: MakeDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: int,
) -> None:
    monkeypatch.setattr(own_mounts, "ends_as_a_whole", lambda: True)
    device = make_device(16)
    host.mkfs(device.path, "ext4")
    for number in range(places):
        where = tmp_path / f"a place {number}"
        where.mkdir()
        host.mount(device.path, str(where), "ext4")
    command = host.own_mounts_command(str(tmp_path))
    told = subprocess.run(
        [*command, "cat", "/proc/self/mountinfo"], capture_output=True, text=True, check=True
    )
    assert told.stderr == ""
    assert f" {device.path} " not in told.stdout
    assert len([entry for entry in host.mounts() if entry.source == device.path]) == places
    for number in range(places):
        host.umount(str(tmp_path / f"a place {number}"))
    others = host.own_mounts_command(str(tmp_path / "elsewhere"))
    assert "-ISc" not in others
