# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the real host: files as devices, and the proof that nothing is left behind.

Only what lies under the test's own directory is looked at, so tests of others may run beside these.
A test that leaks is cleaned up after and then failed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusefs.host import LinuxHost, LoopDevice, mountinfo, syscalls
from fusefs.host import loop as loop_module

MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LinuxHost]:
    """The real host; afterwards no mount and no loop device of this test may remain."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    yield LinuxHost()
    leaks: list[str] = []
    place = str(tmp_path)
    for entry in reversed(mountinfo.read()):
        if entry.mountpoint == place or entry.mountpoint.startswith(place + "/"):
            leaks.append(f"mount {entry.mountpoint}")
            syscalls.umount(entry.mountpoint, syscalls.MNT_DETACH)
    for device in loop_module.attached():
        if device.backing_file.startswith(place):
            leaks.append(f"loop {device}")
            loop_module.detach(device, lazy=True, timeout_s=5)
    assert leaks == []


MakeImage = Callable[..., str]
MakeDevice = Callable[..., LoopDevice]


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """make_image(mib, *mkfs command) -> path of a sparse file, formatted by that command."""
    count = 0

    def make(mib: int, *command: str) -> str:
        nonlocal count
        count += 1
        path = tmp_path / f"image{count}"
        with path.open("wb") as file:
            file.truncate(mib * MIB)
        if command:
            subprocess.run(
                [*command, str(path)], check=True, capture_output=True, stdin=subprocess.DEVNULL
            )
        return str(path)

    return make


@pytest.fixture
def make_device(host: LinuxHost, make_image: MakeImage) -> Iterator[MakeDevice]:
    """make_device(mib, *mkfs command, read_only=False) -> a loop device over such a file."""
    made: list[LoopDevice] = []

    def make(
        mib: int,
        *command: str,
        read_only: bool = False,
        block_size: int = 512,
        size_bytes: int = 0,
    ) -> LoopDevice:
        image = make_image(mib, *command)
        if size_bytes:
            os.truncate(image, size_bytes)
        device = host.loop_attach(image, block_size=block_size, read_only=read_only)
        made.append(device)
        return device

    yield make
    for device in made:
        host.loop_detach(device)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    """An empty directory to mount on."""
    path = tmp_path / "mnt"
    path.mkdir()
    return str(path)
