# SPDX-License-Identifier: Apache-2.0
"""Volumes that the controller makes, from create to delete through the socket, on a real tgt."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host.process import CAP_SYS_RESOURCE, has_capability
from tests.support.csi_driver import Driver, Kubelet, Mode, assert_nothing_left, end_all
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20
WORDS = b"the former user's words"


@dataclass
class Made:
    """A target process and a driver with both services."""

    tgt: TgtServer
    driver: Driver

    def create(
        self, name: str, parameters: Mapping[str, str], size: int = 0, **changes: Any
    ) -> csi.Volume:
        answer = self.driver.client.call("CreateVolume", request(name, parameters, size, **changes))
        return cast("csi.Volume", answer.volume)

    def refusal(
        self, name: str, parameters: Mapping[str, str], size: int = 0, **changes: Any
    ) -> tuple[str, str]:
        wanted = request(name, parameters, size, **changes)
        return self.driver.client.refusal("CreateVolume", wanted)

    def delete(self, volume: csi.Volume) -> tuple[str, str]:
        wanted = csi.DeleteVolumeRequest(volume_id=volume.volume_id)
        return self.driver.client.refusal("DeleteVolume", wanted)

    def kubelet(self, volume: csi.Volume) -> Kubelet:
        return Kubelet(self.driver, volume.volume_id, volume.volume_context, fstype="ext4")

    def listed(self) -> list[str]:
        entries = self.driver.client.call("ListVolumes").entries
        return [entry.volume.volume_id for entry in entries]


def request(
    name: str, parameters: Mapping[str, str], size: int = 0, **changes: Any
) -> csi.CreateVolumeRequest:
    capability = csi.VolumeCapability(
        access_mode=csi.VolumeCapability.AccessMode(mode=Mode.SINGLE_NODE_WRITER)
    )
    capability.mount.fs_type = "ext4"
    return csi.CreateVolumeRequest(
        name=name,
        parameters=dict(parameters),
        capacity_range=csi.CapacityRange(required_bytes=size, **changes),
        volume_capabilities=[capability],
    )


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    with TgtServer() as tgt:
        environment = {"TGT_IPC_SOCKET": str(tgt.directory / "control-1")}
        # Both services in one process: neither --node nor --controller.
        with Driver(tmp_path, part="-v", environment=environment) as driver:
            try:
                yield Made(tgt, driver)
                assert_nothing_left(driver)
            finally:
                end_all(driver)


def write_and_put_away(made: Made, volume: csi.Volume, backing: Path) -> None:
    """A pod comes, finds nothing, writes, and goes."""
    pod = made.kubelet(volume)
    pod.stage()
    place = pod.publish("pod")
    assert not list(place.iterdir()), "nothing of a former user"
    (place / "file").write_bytes(WORDS * 100)
    descriptor = os.open(place / "file", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    pod.unpublish("pod")
    pod.unstage()
    made.tgt.wait_sessions(0, timeout=30)
    assert WORDS in backing.read_bytes()


def test_a_pool_lends_wipes_and_lends_again(made: Made, tmp_path: Path) -> None:
    iqn = "iqn.2026-11.example:pool"
    tid = made.tgt.new_target(iqn)
    files = [tmp_path / f"unit{number}" for number in range(4)]
    for number, size in ((1, 96), (2, 64), (3, 64)):
        made.tgt.add_lun(tid, number, files[number], size_bytes=size * MEBI)
    with files[3].open("r+b") as foreign:
        foreign.seek(63 * MEBI)
        foreign.write(b"somebody's")
    pool = {"provisioner": "pool", "pool": made.tgt.url(tid)}

    first = made.create("one", pool, 50 * MEBI)
    assert made.create("one", pool, 50 * MEBI) == first
    assert first.volume_context["lun"] == "2", "the smallest that will do, and blank"
    assert first.capacity_bytes == 64 * MEBI
    assert made.refusal("one", pool, 80 * MEBI)[0] == "ALREADY_EXISTS"
    write_and_put_away(made, first, files[2])

    second = made.create("two", pool, 50 * MEBI)
    assert second.volume_context["lun"] == "1", "the only one that is left"
    code, text = made.refusal("three", pool, 50 * MEBI)
    assert code == "RESOURCE_EXHAUSTED"
    assert "holds data" in text
    assert made.refusal("three", pool, 500 * MEBI)[0] == "OUT_OF_RANGE"
    assert made.listed() == sorted([first.volume_id, second.volume_id])

    expand = csi.ControllerExpandVolumeRequest(
        volume_id=first.volume_id, capacity_range=csi.CapacityRange(required_bytes=80 * MEBI)
    )
    code, text = made.driver.client.refusal("ControllerExpandVolume", expand)
    assert code == "OUT_OF_RANGE"
    assert "grow it at the target" in text

    assert made.delete(first) == made.delete(first) == ("OK", "")
    assert not any(files[2].read_bytes()), "all of it is wiped"
    made.driver.kill()
    made.driver.start()
    again = made.create("three", pool, 50 * MEBI)
    assert again.volume_context["lun"] == "2"
    assert again.volume_id != first.volume_id
    write_and_put_away(made, again, files[2])
    assert made.delete(again) == ("OK", "")

    kept = {**pool, "onRelease": "quarantine"}
    quarantined = made.create("four", kept, 50 * MEBI)
    write_and_put_away(made, quarantined, files[2])
    assert made.delete(quarantined) == ("OK", "")
    assert WORDS in files[2].read_bytes()
    assert made.refusal("five", pool, 50 * MEBI)[0] == "RESOURCE_EXHAUSTED"
    assert b"somebody's" in files[3].read_bytes()


def test_tgt_makes_grows_and_removes(made: Made, tmp_path: Path) -> None:
    directory = tmp_path / "backing"
    directory.mkdir()
    tgt = {
        "provisioner": "tgt",
        "tgtControlPort": "1",
        "tgtDirectory": str(directory),
        "targetPortal": made.tgt.portal,
    }
    first = made.create("one", tgt, 64 * MEBI)
    assert made.create("one", tgt, 64 * MEBI) == first
    (backing,) = directory.iterdir()
    assert backing.stat().st_size == first.capacity_bytes == 64 * MEBI
    write_and_put_away(made, first, backing)

    pod = made.kubelet(first)
    pod.stage()
    place = pod.publish("pod")
    assert made.delete(first)[0] == "FAILED_PRECONDITION"
    before = os.statvfs(place).f_blocks
    expand = csi.ControllerExpandVolumeRequest(
        volume_id=first.volume_id, capacity_range=csi.CapacityRange(required_bytes=128 * MEBI)
    )
    for _ in range(2):
        grown = made.driver.client.call("ControllerExpandVolume", expand)
        assert grown.capacity_bytes == backing.stat().st_size == 128 * MEBI
    if has_capability(CAP_SYS_RESOURCE):  # ext4 asks for it
        wanted = csi.NodeExpandVolumeRequest(
            volume_id=first.volume_id,
            volume_path=str(place),
            capacity_range=csi.CapacityRange(required_bytes=128 * MEBI),
        )
        made.driver.client.call("NodeExpandVolume", wanted)
        assert os.statvfs(place).f_blocks > before * 1.5
    pod.unpublish("pod")
    pod.unstage()
    device = Kubelet(made.driver, first.volume_id, first.volume_context, block=True)
    device.stage()
    with device.publish("pod").open("rb") as opened:
        assert opened.seek(0, os.SEEK_END) == 128 * MEBI
    device.unpublish("pod")
    device.unstage()
    made.tgt.wait_sessions(0, timeout=30)

    made.driver.kill()
    made.driver.start()
    assert made.delete(first) == made.delete(first) == ("OK", "")
    assert not list(directory.iterdir())
    again = made.create("one", tgt, 64 * MEBI)
    assert again.volume_id != first.volume_id
    (backing,) = directory.iterdir()
    write_and_put_away(made, again, backing)
    assert made.delete(again) == ("OK", "")
    assert made.refusal("two", tgt, 1 << 50)[0] == "OUT_OF_RANGE"
    assert made.listed() == []
