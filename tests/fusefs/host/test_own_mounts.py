# SPDX-License-Identifier: Apache-2.0
"""What runs in a mount namespace of its own does not have the volumes mounted, and we have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusefs.host import LinuxHost, mountinfo, own_mounts, syscalls
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


@pytest.mark.root
def test_one_that_is_mounted_just_before_is_not_in_it_either(
    host: LinuxHost, make_device: MakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_mounts, "ends_as_a_whole", lambda: True)
    device = make_device(16)
    host.mkfs(device.path, "ext4")
    command = host.own_mounts_command(str(tmp_path))
    with mounted(host, device.path, tmp_path / "late", "ext4"):
        told = subprocess.run(
            [*command, "cat", "/proc/self/mountinfo"], capture_output=True, text=True, check=True
        )
    assert f" {device.path} " not in told.stdout


@pytest.mark.root
@pytest.mark.parametrize("propagation", ["slave", "unchanged"])
def test_what_the_host_unmounts_is_not_kept_busy(
    host: LinuxHost, make_device: MakeDevice, tmp_path: Path, propagation: str
) -> None:
    """A disk below a directory that a container has bound `rslave` or `rshared`; its own mounts,
    and those that the data path needs, stay."""
    device = make_device(16)
    host.mkfs(device.path, "ext4")
    shared = tmp_path / "a directory"
    own, disk, run = tmp_path / "own", shared / "disk", shared / "run"
    with mounted(host, "none", shared, "tmpfs"):
        syscalls.mount("none", str(shared), None, syscalls.MS_SHARED)
        with mounted(host, "none", own, "tmpfs"), mounted(host, "none", run, "tmpfs"):
            (run / "volumes").mkdir()
            with mounted(host, device.path, disk, "ext4"):
                holder = in_a_container(propagation, run / "volumes")
                try:
                    assert holder.stdout is not None
                    table = list(iter(holder.stdout.readline, "the end\n"))
                    there = {entry.mountpoint for entry in mountinfo.parse("".join(table))}
                    assert is_mounted(host, disk)  # nothing came back out here
                    assert {"/", "/proc", str(own), str(shared), str(run)} <= there
                    assert str(disk) not in there
                    host.umount(str(disk))
                    # As cryptsetup close and mkfs do: nothing else may have it.
                    os.close(os.open(device.path, os.O_RDONLY | os.O_EXCL))
                finally:
                    holder.communicate("", timeout=60)


def in_a_container(propagation: str, volumes: Path) -> subprocess.Popen[str]:
    """What stands for a holder: it tells its mounts, and lives until its input ends."""
    code = (
        "import os, sys; from fusefs.host import LinuxHost; "
        "command = LinuxHost().own_mounts_command(sys.argv[1]); "
        "os.execvp(command[0], [*command, 'sh', '-c', "
        "'cat /proc/self/mountinfo; echo the end; exec cat'])"
    )
    apart = [require("unshare"), "--pid", "--fork", "--mount", "--propagation", propagation, "--"]
    # The container goes on beside its holder, with the mounts that it got.
    return subprocess.Popen(
        [*apart, "sh", "-c", '"$@"; exit', "sh", sys.executable, "-c", code, str(volumes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def mounted(host: LinuxHost, source: str, where: Path, fstype: str) -> Iterator[None]:
    where.mkdir()
    syscalls.mount(source, str(where), fstype, 0)
    try:
        yield
    finally:
        host.umount(str(where))


def is_mounted(host: LinuxHost, where: Path) -> bool:
    return any(entry.mountpoint == str(where) for entry in host.mounts())


@pytest.mark.root
def test_where_it_cannot_be_made_the_command_runs_all_the_same(
    host: LinuxHost, tmp_path: Path
) -> None:
    """And nothing is unmounted where others would miss it."""
    program = str(Path(own_mounts.__file__).with_name("own_mounts_init.py"))
    without = [require("setpriv"), "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]
    apart = [require("unshare"), "--mount", "--propagation", "unchanged", "--"]
    here = tmp_path / "here"
    with mounted(host, "none", here, "tmpfs"):
        syscalls.mount("none", str(here), None, syscalls.MS_SHARED)
        look = "cat /proc/self/mountinfo"
        told = subprocess.run(
            [*apart, *without, sys.executable, "-IS", program, "1", "/nowhere", "sh", "-c", look],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f" {here} " in told.stdout
        assert "no mount namespace of its own" in told.stderr
        assert is_mounted(host, here)
