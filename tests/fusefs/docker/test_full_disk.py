# SPDX-License-Identifier: Apache-2.0
"""No room, or no right to write, where the files of volumes lie: an engine's Unmount comes once, so
it is made up for, and a volume can be ended in order all the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.fusefs.docker.disks import Disks
from tests.support.plugin import Plugin
from tests.support.small_disk import full, read_only, small_disk
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Plugin]:
    """The plugin, with both of its directories on small disks."""
    with small_disk(tmp_path / "run"), small_disk(tmp_path / "state"), Plugin(tmp_path) as plugin:
        yield plugin


def test_what_is_given_back_to_a_full_disk_is_given_back_later(
    cramped: Plugin, disks: Disks
) -> None:
    disk = disks.new()
    cramped.call("Create", Name="data", Opts=disk.formatted)
    for user in ("one", "two"):
        path = Path(cramped.call("Mount", Name="data", ID=user)["Mountpoint"])
    (path / "file").write_text("kept")
    with full(cramped.run_dir):
        told = cramped.refused("Unmount", Name="data", ID="one")
        assert "still counted as used by one" in told
        assert "No space left on device; make room there" in told
        assert cramped.status("data")["users"] == {"one": 1, "two": 1}
    os.kill(cramped.pid, signal.SIGHUP)
    wait_until(lambda: cramped.status("data")["users"] == {"two": 1}, 30, "one is gone")
    cramped.call("Unmount", Name="data", ID="two")
    disk.wait_sessions(0)
    cramped.call("Remove", Name="data")


@pytest.mark.parametrize("trouble", [full, read_only])
def test_a_volume_ends_in_order_where_nothing_can_be_written(
    cramped: Plugin, disks: Disks, trouble: Callable[[Path], AbstractContextManager[None]]
) -> None:
    disk = disks.new()
    place = cramped.run_dir if trouble is full else cramped.state_dir
    cramped.call("Create", Name="data", Opts=disk.formatted)
    path = Path(cramped.call("Mount", Name="data", ID="one")["Mountpoint"])
    (path / "file").write_text("kept")
    with trouble(place):
        assert cramped.cli("umount", "data")["clean"]
        disk.wait_sessions(0)
        assert not list((cramped.run_dir / "volumes").iterdir())
    path = Path(cramped.call("Mount", Name="data", ID="one")["Mountpoint"])
    assert (path / "file").read_text() == "kept"
    for _ in range(2):
        cramped.call("Unmount", Name="data", ID="one")
    cramped.call("Remove", Name="data")
