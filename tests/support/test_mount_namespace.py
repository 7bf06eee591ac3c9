# SPDX-License-Identifier: Apache-2.0
"""The private mount namespace, and what is found in it that somebody left."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import processes
from .kernel_tables import loop_devices_over, of_no_mount
from .mount_namespace import MountNamespace
from .waiting import wait_until

pytestmark = pytest.mark.root
MEBI = 1 << 20


def run(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[MountNamespace]:
    with MountNamespace(run=tmp_path / "run") as made:
        yield made


def test_mounts_propagate_inside_and_not_out(namespace: MountNamespace, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    run(*namespace.command("mount", "-t", "tmpfs", "inside", str(place)))
    assert str(place) in {mounted.mountpoint for mounted in namespace.mounts()}
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    shared = run(*namespace.command("findmnt", "-n", "-o", "PROPAGATION", str(place)))
    assert shared == "shared"
    run(*namespace.command("umount", str(place)))
    assert str(place) not in {mounted.mountpoint for mounted in namespace.mounts()}


def test_its_run_is_its_own(namespace: MountNamespace, tmp_path: Path) -> None:
    run(*namespace.command("touch", "/run/only-here"))
    assert (tmp_path / "run/only-here").exists()
    assert not Path("/run/only-here").exists()


def test_what_others_have_mounted_is_not_kept_busy(tmp_path: Path) -> None:
    """A filesystem that is mounted outside is not in the copy, so its device is free afterwards."""
    disk, place = tmp_path / "disk", tmp_path / "outside"
    place.mkdir()
    with disk.open("wb") as file:
        file.truncate(16 * MEBI)
    run("mkfs.ext4", "-q", str(disk))
    loop = run("losetup", "--find", "--show", str(disk))
    try:
        run("mount", loop, str(place))
        with MountNamespace(run=tmp_path / "run") as namespace:
            assert str(place) not in {mounted.mountpoint for mounted in namespace.mounts()}
            run("umount", str(place))
            run("losetup", "--detach", loop)
            assert loop not in run("losetup", "--list", "--noheadings", "-O", "NAME")
    finally:
        subprocess.run(["umount", str(place)], check=False, capture_output=True, timeout=60)
        subprocess.run(["losetup", "--detach", loop], check=False, capture_output=True, timeout=60)


def test_what_is_left_is_found(namespace: MountNamespace, tmp_path: Path) -> None:
    disk = tmp_path / "left"
    with disk.open("wb") as file:
        file.truncate(MEBI)
    assert loop_devices_over(str(tmp_path)) == []
    loop = run(*namespace.command("losetup", "--find", "--show", str(disk)))
    try:
        (found,) = loop_devices_over(str(tmp_path))
        assert loop.removeprefix("/dev/") in found
    finally:
        run("losetup", "--detach", loop)
    sleeper = subprocess.Popen(namespace.command("sleep", "600"))
    try:
        wait_until(lambda: processes.name_of(sleeper.pid) == "sleep", 20, "it is inside")
        assert sleeper.pid in namespace.processes()
    finally:
        sleeper.kill()
        sleeper.wait(10)
    assert sleeper.pid not in namespace.processes()


def test_a_fuse_connection_without_a_mount_is_found(namespace: MountNamespace) -> None:
    """By number: what has a mount somewhere is somebody's."""
    assert of_no_mount({1 << 19}, namespace.mounts()) == [f"FUSE connection {1 << 19}"]
    mounted = next(iter(namespace.mounts())).device_minor
    assert of_no_mount({mounted}, namespace.mounts()) == []
    assert namespace.fuse_connections() is not None
