# SPDX-License-Identifier: Apache-2.0
"""A LUN that grows and says so (CAPACITY DATA HAS CHANGED): how far that goes by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyscsi_init.testing import RamDisk
from tests.e2e.conftest import Volumes
from tests.support.mounted_file import eventually
from tests.support.python_target import MEBI, TargetThread, make_target
from tests.support.requirements import require_module

pytestmark = pytest.mark.root

OLD, NEW = 64 * MEBI, 96 * MEBI


def loop_size(loop: str) -> int:
    """What the kernel says of the loop device."""
    return int(Path(f"/sys/block/{Path(loop).name}/size").read_text()) * 512


def read_one_block(path: str) -> None:
    """A command for the unit attention to come with."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.pread(descriptor, 512, 0)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("channel", ["native", "pyfuse3"])
def test_the_loop_device_grows_without_a_command(volumes: Volumes, channel: str) -> None:
    if channel == "pyfuse3":
        require_module("pyfuse3")
    with TargetThread(make_target(RamDisk(OLD))) as served:
        volume = volumes.attach(served.url(), name="v", fuse_channel=channel)
        assert loop_size(volume.loop) == OLD
        served.call(served.target.luns[0].grow, NEW)
        read_one_block(volume.file)
        eventually(lambda: loop_size(volume.loop) == NEW)
        with open(volume.loop, "r+b", buffering=0) as device:
            device.seek(NEW - 512)
            device.write(b"x" * 512)
            os.fsync(device.fileno())
        assert served.target.luns[0].disk.read(NEW - 512, 512) == b"x" * 512
        again = volumes.resize("v")
        assert (again.old_size_bytes, again.size_bytes, again.grown) == (NEW, NEW, False)
        volumes.detach("v")


def test_growth_while_the_target_is_away(volumes: Volumes) -> None:
    """The barrier looks at the size, so that nobody has to ask."""
    with TargetThread(make_target(RamDisk(OLD))) as served:
        volume = volumes.attach(served.url(), name="v", settings={"default_time2wait": 0})
        target = served.target
        target.luns[0].announce_capacity_change = False
        served.call(target.luns[0].grow, NEW)
        assert loop_size(volume.loop) == OLD
        served.call(target.drop_connections)
        eventually(lambda: loop_size(volume.loop) == NEW)
        volumes.detach("v")


def test_a_device_in_use_never_becomes_smaller(volumes: Volumes) -> None:
    with TargetThread(make_target(RamDisk(OLD))) as served:
        volume = volumes.attach(served.url(), name="v")
        served.call(served.target.luns[0].grow, OLD // 2)
        read_one_block(volume.file)
        eventually(lambda: Path(volume.file).stat().st_size == OLD // 2)
        # Only when it grows again is there something to follow, and then all of it is done.
        served.call(served.target.luns[0].grow, NEW)
        read_one_block(volume.file)
        eventually(lambda: loop_size(volume.loop) != OLD)
        assert loop_size(volume.loop) == NEW
        volumes.detach("v")
