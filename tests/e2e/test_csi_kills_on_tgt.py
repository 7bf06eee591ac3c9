# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the CSI driver between and inside the calls of a node; then the same call again.

``make test`` has one life of each kind of volume, in which each call is killed inside once, made
again, killed between it and the next one, and made once more. ``make soak`` counts the steps of
each call in a life in which nobody is killed, and then kills at every one of them. Each time the
call that comes again succeeds, the volume is what it has to be, and nothing is there twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.message import Message

from tests.support.csi_cluster import MEBI, Cluster, Disk
from tests.support.csi_driver import Kubelet, assert_nothing_left, end_all, mounted_below, states
from tests.support.csi_killed import KilledDriver, kill_at_every_step, kill_at_points
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

POD = "pod-1"
WAY_UP = ("NodeStageVolume", "NodePublishVolume")
LOOKS = ("NodeGetVolumeStats", "NodeExpandVolume")
WAY_BACK = ("NodeUnpublishVolume", "NodeUnstageVolume")
POINTS = {
    "filesystem": (
        "after mkfs",
        "after bind",
        "before usage",
        "before grow_filesystem",
        "after umount",
        "before loop_detach",
    ),
    "block": (
        "after loop_attach",
        "before bind",
        "after usage",
        "after loop_set_capacity",
        "before umount",
        "after the holder forgot",
    ),
    "inline": (
        "after start of the worker",
        "before usage",
        "after grow_filesystem",
        "before the holder forgets",
    ),
}
"""One in each call."""


@dataclass
class Life:
    """One volume on a disk that is blank before its first stage."""

    tgt: TgtServer
    driver: KilledDriver
    disk: Disk
    kind: str
    number: int = 0

    @property
    def block(self) -> bool:
        return self.kind == "block"

    @property
    def inline(self) -> bool:
        return self.kind == "inline"

    @property
    def size(self) -> int:
        return (320 if self.kind == "xfs" else 64) * MEBI

    @property
    def methods(self) -> tuple[str, ...]:
        return (*WAY_UP[self.inline :], *LOOKS, *WAY_BACK[: 2 - self.inline])

    def begin(self) -> None:
        """A new volume, on a disk that holds nothing."""
        self.number += 1
        os.truncate(self.disk.path, 0)
        self.tgt.grow(self.disk.tid, 1, self.size)
        context = dict(self.disk.context)
        if self.inline:
            context["csi.storage.k8s.io/ephemeral"] = "true"
        self.volume = Kubelet(
            self.driver,
            f"vol-{self.number}",
            context,
            block=self.block,
            fstype="xfs" if self.kind == "xfs" else "",
        )

    def prepare(self, method: str) -> None:
        """Before an expansion there is something to take over, where that can be done here."""
        if method == "NodeExpandVolume" and self.kind in ("block", "xfs"):
            self.tgt.grow(self.disk.tid, 1, self.size + 64 * MEBI)

    def request(self, method: str) -> Message:
        return self.volume.request(method, POD)

    def call(self, method: str) -> None:
        self.driver.client.call(method, self.request(method))

    def check(self, method: str) -> None:
        """What must be there after this call, and nothing more."""
        place = self.volume.target(POD)
        there = method not in ("NodeUnstageVolume",) and not (
            self.inline and method == "NodeUnpublishVolume"
        )
        published = method in ("NodePublishVolume", *LOOKS)
        assert os.path.lexists(place) == published
        if published:
            assert place.is_block_device() if self.block else os.path.ismount(place)
        if not there:
            assert_nothing_left(self.driver)
            self.tgt.wait_sessions(0, timeout=30)
            return
        wanted = published + (not self.block and not self.inline)
        assert len(mounted_below(self.volume.root)) == wanted, mounted_below(self.volume.root)
        assert len(self.tgt.sessions(self.disk.tid)) == 1
        (state,) = states(self.driver)
        grown = method in ("NodeExpandVolume", *WAY_BACK) and self.kind in ("block", "xfs")
        size = self.size + grown * 64 * MEBI
        sectors = Path("/sys/block", Path(state["loop"]["path"]).name, "size")
        assert int(sectors.read_text()) * 512 == size
        if published and self.kind == "xfs":
            found = os.statvfs(place)
            # Its log takes 64 MiB.
            assert (found.f_blocks * found.f_frsize >= self.size) == grown
        assert state["phase"] == ("attached" if self.block else "mounted")
        assert len(state["binds"]) == (published and not self.inline)
        assert self.loops() == 1

    def loops(self) -> int:
        found = 0
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                found += str(self.driver.base) in backing.read_text()
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TgtServer, KilledDriver]]:
    with TgtServer() as tgt, KilledDriver(tmp_path_factory.mktemp("csi")) as driver:
        yield tgt, driver


@pytest.fixture
def life(request: pytest.FixtureRequest, ground: tuple[TgtServer, KilledDriver]) -> Iterator[Life]:
    tgt, driver = ground
    disk = Cluster(tgt, driver).new_disk()
    yield Life(tgt, driver, disk, request.param, disk.tid * 1000)
    end_all(driver)


def kinds(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("life", names, indirect=True)


@kinds("filesystem", "block", "inline")
def test_each_call_killed_inside_and_before_the_next(life: Life) -> None:
    points = zip(life.methods, POINTS[life.kind], strict=True)
    kill_at_points(life, {method: (point,) for method, point in points})


@pytest.mark.soak
@kinds("filesystem", "block", "inline", "xfs")
def test_killed_between_any_two_calls(life: Life) -> None:
    """Also each call again, as from an orchestrator that got no answer."""
    life.begin()
    for method in life.methods:
        life.prepare(method)
        life.call(method)
        life.driver.kill()
        life.driver.start()
        life.check(method)
        life.call(method)
        life.check(method)


@pytest.mark.soak
@kinds("filesystem", "block", "inline", "xfs")
def test_killed_inside_a_call_at_every_step(life: Life) -> None:
    kill_at_every_step(life)
