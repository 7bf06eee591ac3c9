# SPDX-License-Identifier: Apache-2.0
"""The life of volumes through the CSI socket, on a real tgt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.csi_driver import Driver, Kubelet, assert_nothing_left, mounted_below
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

IQN = "iqn.2026-11.example:disk"
MEBI = 1 << 20


class Cluster:
    """A target with one disk of 64 MiB, and the driver of a node."""

    def __init__(self, tgt: TgtServer, driver: Driver) -> None:
        self.tgt = tgt
        self.driver = driver
        self.tid = tgt.new_target(IQN)
        self.disk = driver.base / "disk"
        tgt.add_lun(self.tid, 1, self.disk, size_bytes=64 * MEBI)
        self.context = {"targetPortal": tgt.portal, "iqn": IQN, "lun": "1"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with TgtServer() as tgt, Driver(tmp_path) as driver:
        yield Cluster(tgt, driver)
        assert_nothing_left(driver)
        tgt.wait_sessions(0)


def test_a_filesystem_from_stage_to_unstage_every_call_twice(cluster: Cluster) -> None:
    volume = Kubelet(cluster.driver, "vol-1", cluster.context, fstype="ext4")
    for _ in range(2):
        volume.stage()
    assert len(cluster.tgt.sessions(cluster.tid)) == 1
    for _ in range(2):
        one = volume.publish("pod-1")
    other = volume.publish("pod-2")
    (one / "file").write_text("seen by both")
    assert (other / "file").read_text() == "seen by both"
    assert len(mounted_below(volume.root)) == 3
    for _ in range(2):
        volume.unpublish("pod-1")
    volume.unpublish("pod-2")
    for _ in range(2):
        volume.unstage()
    assert cluster.tgt.sessions(cluster.tid) == []


def test_a_block_device_from_stage_to_unstage_every_call_twice(cluster: Cluster) -> None:
    volume = Kubelet(cluster.driver, "vol-b", cluster.context, block=True)
    for _ in range(2):
        volume.stage()
    for _ in range(2):
        device = volume.publish("pod-1")
    assert device.is_block_device()
    with device.open("r+b", buffering=0) as opened:
        assert opened.seek(0, os.SEEK_END) == 64 * MEBI
        opened.seek(0)
        opened.write(b"raw" + bytes(4093))
        os.fsync(opened.fileno())
    assert cluster.disk.read_bytes()[:3] == b"raw"
    for _ in range(2):
        volume.unpublish("pod-1")
    for _ in range(2):
        volume.unstage()
    assert cluster.tgt.sessions(cluster.tid) == []
