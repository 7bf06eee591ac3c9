# SPDX-License-Identifier: Apache-2.0
"""A provisioner in memory, a server of the Controller service with it, and a client of that."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import grpc
from google.protobuf.message_factory import GetMessageClass

from fusefs.csi.server import CsiServer
from fusefs.csi.wire import csi_pb2 as csi
from fusefs.errors import InvalidSpec
from fusefs.volume.provision import (
    Capacity,
    ClaimConflict,
    NoSpaceLeft,
    NoSuchClaim,
    ProvisionedLun,
    Provisioner,
    SizeNotPossible,
    SizeRange,
)
from pyscsi_init.secret import Chap
from pyscsi_init.url import parse_url

T = TypeVar("T")
GIBI = 1 << 30


class Shelf(Provisioner):
    """Numbered LUNs of one target, in memory."""

    name = "shelf"

    def __init__(self, room: int = 10 * GIBI) -> None:
        self.room = room
        self.claims: dict[str, ProvisionedLun] = {}
        self.credentials: list[Chap | None] = []
        self.hold: anyio.Event | None = None

    async def create(
        self,
        name: str,
        size: SizeRange,
        parameters: Mapping[str, str],
        labels: Mapping[str, str],
        credentials: Chap | None = None,
    ) -> ProvisionedLun:
        self.credentials.append(credentials)
        if self.hold is not None:
            await self.hold.wait()
        if unknown := set(parameters) - {"colour"}:
            raise InvalidSpec("parameter", unknown.pop(), "is not known", remedy="drop it")
        for lun in self.claims.values():
            if lun.name == name:
                if not size.admits(lun.size_bytes) or lun.labels != labels:
                    raise ClaimConflict(name, f"has {lun.size_bytes} bytes, not {size}")
                return lun
        wanted = size.required or GIBI
        if wanted > self._free():
            raise NoSpaceLeft(f"{wanted} bytes are not free")
        number = len(self.claims)
        lun = ProvisionedLun(
            claim_id=f"c{number}",
            name=name,
            url=parse_url(f"iscsi://192.0.2.7,192.0.2.8/iqn.2026-11.example:shelf/{number}"),
            size_bytes=wanted,
            parameters=dict(parameters),
            labels=dict(labels),
        )
        self.claims[lun.claim_id] = lun
        return lun

    def _free(self) -> int:
        return self.room - sum(lun.size_bytes for lun in self.claims.values())

    async def delete(self, claim_id: str, credentials: Chap | None = None) -> None:
        self.credentials.append(credentials)
        self.claims.pop(claim_id, None)

    async def get(self, claim_id: str) -> ProvisionedLun:
        if claim_id not in self.claims:
            raise NoSuchClaim(claim_id)
        return self.claims[claim_id]

    async def list(self) -> Sequence[ProvisionedLun]:
        return [self.claims[key] for key in sorted(self.claims)]

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        return Capacity(self._free(), largest=self._free())

    async def expand(
        self, claim_id: str, size: SizeRange, credentials: Chap | None = None
    ) -> ProvisionedLun:
        lun = await self.get(claim_id)
        if size.required > self.room:
            raise SizeNotPossible(f"{size.required} bytes are more than there is")
        grown = max(lun.size_bytes, size.required)
        self.claims[claim_id] = ProvisionedLun(
            claim_id=claim_id, name=lun.name, url=lun.url, size_bytes=grown, labels=lun.labels
        )
        return self.claims[claim_id]


class Controller:
    """A server with that provisioner, and a client of it."""

    def __init__(self, channel: grpc.aio.Channel, shelf: Shelf, path: Path) -> None:
        self.shelf = shelf
        self.path = path
        self._channel = channel

    async def call(self, method: str, request: Any = None, service: str = "Controller") -> Any:
        described = csi.DESCRIPTOR.services_by_name[service]
        (found,) = [each for each in described.methods if each.name == method]
        kind = GetMessageClass(found.input_type)
        call: Any = self._channel.unary_unary(
            f"/{described.full_name}/{method}",
            request_serializer=kind.SerializeToString,
            response_deserializer=GetMessageClass(found.output_type).FromString,
        )
        return await call(kind() if request is None else request, timeout=30)

    async def refusal(self, method: str, request: Any = None) -> tuple[str, str]:
        try:
            await self.call(method, request)
        except grpc.aio.AioRpcError as error:
            return error.code().name, str(error.details())
        return "OK", ""


@contextlib.asynccontextmanager
async def controller(directory: Path) -> AsyncIterator[Controller]:
    shelf, path, stop = Shelf(), directory / "csi.sock", anyio.Event()
    server = CsiServer(f"unix://{path}", manager=None, provisioners=[shelf], node_id="n")
    async with anyio.create_task_group() as group:
        await group.start(lambda task_status: server.serve(stop, task_status=task_status))
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            yield Controller(channel, shelf, path)
        stop.set()
    assert not path.exists()


def run(function: Callable[[Controller], Any], directory: Path) -> None:
    async def main() -> None:
        async with controller(directory) as running:
            await function(running)

    anyio.run(main, backend="asyncio")


def capability(mode: str = "SINGLE_NODE_WRITER", *, block: bool = False) -> csi.VolumeCapability:
    made = csi.VolumeCapability()
    made.access_mode.mode = csi.VolumeCapability.AccessMode.Mode.Value(mode)
    (made.block if block else made.mount).SetInParent()
    return made


def create(name: str = "pvc-1", **changes: Any) -> csi.CreateVolumeRequest:
    values: dict[str, Any] = {
        "name": name,
        "volume_capabilities": [capability()],
        "capacity_range": csi.CapacityRange(required_bytes=2 * GIBI),
        "parameters": {"provisioner": "shelf", "fencing": "required", "colour": "red"},
        **changes,
    }
    return csi.CreateVolumeRequest(**values)
