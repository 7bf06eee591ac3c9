# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the CSI driver inside the calls of a controller; then the same call again: the right
volume, and neither claim, target, LUN nor backing file too many.

``make test`` kills several times in each call, one after the other; ``make soak`` at every step of
each call, a step of tgtadm's among them: before it is asked, while it works, after its answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from google.protobuf.message import Message

from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host.tgtadm import TgtTarget, parse_targets
from pyscsi_init.device import open_lun
from pyscsi_init.url import parse_url
from tests.support.csi_cluster import MEBI
from tests.support.csi_driver import Mode
from tests.support.csi_killed import KilledDriver, kill_at_every_step, kill_at_points
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

SIZE, GROWN = 16 * MEBI, 24 * MEBI
WORDS = b"the former user's words"


class Life(ABC):
    """One volume from create to delete."""

    methods = ("CreateVolume", "ControllerExpandVolume", "DeleteVolume")

    def __init__(self, tgt: TgtServer, driver: KilledDriver) -> None:
        self.tgt = tgt
        self.driver = driver
        self.number = 0
        self.volume = csi.Volume()
        self.written = b""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, str]: ...

    @abstractmethod
    def backing(self) -> list[Path]:
        """The files that are there for the volume."""

    def begin(self) -> None:
        self.number += 1
        self.written = b""

    def prepare(self, method: str) -> None:
        """Before it is made larger somebody uses it."""
        if method == "ControllerExpandVolume":
            (backing,) = self.backing()
            self.written = bytes(7 * MEBI) + WORDS
            with backing.open("r+b") as file:
                file.write(self.written)

    def request(self, method: str) -> Message:
        if method == "CreateVolume":
            capability = csi.VolumeCapability(
                access_mode=csi.VolumeCapability.AccessMode(mode=Mode.SINGLE_NODE_WRITER)
            )
            capability.mount.SetInParent()
            return csi.CreateVolumeRequest(
                name=f"pvc-{self.number}",
                parameters=self.parameters,
                capacity_range=csi.CapacityRange(required_bytes=SIZE),
                volume_capabilities=[capability],
            )
        if method == "ControllerExpandVolume":
            return csi.ControllerExpandVolumeRequest(
                volume_id=self.volume.volume_id,
                capacity_range=csi.CapacityRange(required_bytes=GROWN),
            )
        return csi.DeleteVolumeRequest(volume_id=self.volume.volume_id)

    def call(self, method: str) -> None:
        answer = self.driver.client.call(method, self.request(method))
        if method == "CreateVolume":
            self.volume = answer.volume
        elif method == "ControllerExpandVolume":
            assert answer.capacity_bytes == GROWN

    def targets(self) -> list[TgtTarget]:
        return parse_targets(self.tgt._run("--op", "show", "--mode", "target"))

    def check(self, method: str) -> None:
        """What must be there after this call, and nothing more."""
        listed = [each.volume for each in self.driver.client.call("ListVolumes").entries]
        claims = list((self.driver.state_dir / "provisioned").glob("*/claims/*.json"))
        if method == "DeleteVolume":
            assert (listed, claims) == ([], [])
            self.check_gone()
            return
        size = SIZE if method == "CreateVolume" else GROWN
        assert [each.volume_id for each in listed] == [self.volume.volume_id]
        assert listed[0].volume_context == self.volume.volume_context
        assert len(claims) == 1
        (backing,) = self.backing()
        assert anyio.run(self.size_at_the_target) == size == backing.stat().st_size
        content = backing.read_bytes()
        assert content == self.written.ljust(size, b"\0"), "nothing else, nothing of others"

    @abstractmethod
    def check_gone(self) -> None: ...

    async def size_at_the_target(self) -> int:
        where = self.volume.volume_context
        url = parse_url(f"iscsi://{where['targetPortal']}/{where['iqn']}/{where['lun']}")
        async with open_lun(url) as lun:
            return lun.size_bytes


class TgtLife(Life):
    """A target is made for it, and removed."""

    def __init__(self, tgt: TgtServer, driver: KilledDriver) -> None:
        super().__init__(tgt, driver)
        self.directory = driver.base / "backing"
        self.directory.mkdir(exist_ok=True)

    @property
    def parameters(self) -> dict[str, str]:
        return {
            "provisioner": "tgt",
            "tgtControlPort": "1",
            "tgtDirectory": str(self.directory),
            "targetPortal": self.tgt.portal,
        }

    def backing(self) -> list[Path]:
        (target,) = self.targets()
        assert target.allowed == ["ALL"]
        assert list(target.units) == [1]
        return list(self.directory.iterdir())

    def check_gone(self) -> None:
        assert self.targets() == []
        assert list(self.directory.iterdir()) == []


class PoolLife(Life):
    """A unit is lent for it, wiped or put away."""

    policy = "wipe"

    def begin(self) -> None:
        super().begin()
        iqn = f"iqn.2026-11.example:{self.policy}{self.number}"
        self.tid = self.tgt.new_target(iqn)
        self.files = [self.driver.base / f"{self.policy}-{self.number}-{lun}" for lun in (1, 2)]
        for lun, (file, size) in enumerate(zip(self.files, (SIZE, 2 * SIZE), strict=True), 1):
            self.tgt.add_lun(self.tid, lun, file, size_bytes=size)

    @property
    def parameters(self) -> dict[str, str]:
        return {
            "provisioner": "pool",
            "pool": self.tgt.url(self.tid),
            "onRelease": self.policy,
        }

    def backing(self) -> list[Path]:
        return [self.files[int(self.volume.volume_context["lun"]) - 1]]

    def prepare(self, method: str) -> None:
        super().prepare(method)
        if method == "ControllerExpandVolume":  # an administrator grew it
            self.tgt.grow(self.tid, 1, GROWN)

    def capacity(self) -> int:
        parameters = self.parameters
        request = csi.GetCapacityRequest(parameters=parameters)
        return int(self.driver.client.call("GetCapacity", request).available_capacity)

    def check_gone(self) -> None:
        assert not any(self.files[0].read_bytes()), "all of it is wiped"
        assert self.capacity() == GROWN + 2 * SIZE
        self.tgt.wait_sessions(0, self.tid, timeout=30)


class QuarantineLife(PoolLife):
    """The same, and it is kept from everybody."""

    policy = "quarantine"

    def check_gone(self) -> None:
        assert WORDS in self.files[0].read_bytes()
        assert self.capacity() == 2 * SIZE


KINDS = {"tgt": TgtLife, "wipe": PoolLife, "quarantine": QuarantineLife}
POINTS = {
    "tgt": {
        "CreateVolume": (
            "during tgtadm --op new --mode target",
            "after tgtadm --op new --mode logicalunit",
            "during tgtadm --op update",
            "before tgtadm --op bind",
        ),
        "ControllerExpandVolume": ("after tgtadm --op update",),
        "DeleteVolume": (
            "after tgtadm --op unbind",
            "during tgtadm --op delete --mode logicalunit",
            "after tgtadm --op delete --mode target",
        ),
    },
    "wipe": {
        "CreateVolume": ("before login to LUN 1", "os.rename"),
        "ControllerExpandVolume": ("after login to LUN 1",),
        "DeleteVolume": ("before zeros at 16777216", "before logout from LUN 1"),
    },
}


@pytest.fixture
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Life]:
    with TgtServer() as tgt:
        environment = {"TGT_IPC_SOCKET": str(tgt.directory / "control-1")}
        with KilledDriver(tmp_path, environment=environment) as driver:
            yield KINDS[request.param](tgt, driver)


@pytest.mark.parametrize("life", POINTS, indirect=True)
def test_each_call_killed_inside(life: Life, request: pytest.FixtureRequest) -> None:
    kill_at_points(life, POINTS[request.node.callspec.params["life"]])
    nothing_is_left(life)


@pytest.mark.soak
@pytest.mark.parametrize("life", KINDS, indirect=True)
def test_killed_inside_a_call_at_every_step(life: Life) -> None:
    kill_at_every_step(life)
    nothing_is_left(life)


def nothing_is_left(life: Life) -> None:
    """Of the files of claims, once somebody has decided again: neither locks nor halves."""
    life.begin()
    life.call("CreateVolume")
    life.call("DeleteVolume")
    assert list((life.driver.state_dir / "provisioned").glob("*/claims/*")) == []
