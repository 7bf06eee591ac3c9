# SPDX-License-Identifier: Apache-2.0
"""The server on its socket, and the Controller service behind it; no target and no root needed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from fusefs.csi.calls import Calls
from fusefs.csi.errors import Code, Refused
from fusefs.csi.server import CsiServer, socket_path
from fusefs.csi.wire import csi_pb2 as csi
from fusefs.errors import InvalidSpec, OperationInProgress
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
from tests.support.waiting import until

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


def test_a_volume_from_create_to_delete_every_call_twice(tmp_path: Path) -> None:
    async def life(it: Controller) -> None:
        for _ in range(2):
            volume = (await it.call("CreateVolume", create())).volume
        assert len(it.shelf.claims) == 1
        assert (volume.volume_id, volume.capacity_bytes) == ("shelf:c0", 2 * GIBI)
        assert dict(volume.volume_context) == {
            "targetPortal": "192.0.2.7:3260",
            "portals": '["192.0.2.7:3260", "192.0.2.8:3260"]',
            "iqn": "iqn.2026-11.example:shelf",
            "lun": "0",
            "fencing": "required",
        }
        assert it.shelf.claims["c0"].parameters == {"colour": "red"}
        grow = csi.ControllerExpandVolumeRequest(
            volume_id=volume.volume_id, capacity_range=csi.CapacityRange(required_bytes=3 * GIBI)
        )
        for _ in range(2):
            grown = await it.call("ControllerExpandVolume", grow)
            assert (grown.capacity_bytes, grown.node_expansion_required) == (3 * GIBI, True)
        assert (await it.call("GetCapacity")).available_capacity == 7 * GIBI
        secrets = {"node.session.auth.username": "u", "node.session.auth.password": "p" * 12}
        delete = csi.DeleteVolumeRequest(volume_id=volume.volume_id, secrets=secrets)
        for _ in range(2):
            await it.call("DeleteVolume", delete)
        assert it.shelf.claims == {}
        assert it.shelf.credentials[-1] is not None
        await it.call("DeleteVolume", csi.DeleteVolumeRequest(volume_id="whatever"))

    run(life, tmp_path)


def test_create_refuses(tmp_path: Path) -> None:
    source = csi.VolumeContentSource(volume=csi.VolumeContentSource.VolumeSource(volume_id="v"))

    async def refusals(it: Controller) -> None:
        for request, code, text in [
            (create(""), "INVALID_ARGUMENT", "name is missing"),
            (create(volume_capabilities=[]), "INVALID_ARGUMENT", "volume_capabilities is missing"),
            (
                create(volume_capabilities=[capability("MULTI_NODE_MULTI_WRITER")]),
                "INVALID_ARGUMENT",
                "use a raw block volume",
            ),
            (create(volume_content_source=source), "INVALID_ARGUMENT", "makes no copies"),
            (create(mutable_parameters={"a": "b"}), "INVALID_ARGUMENT", "MODIFY_VOLUME"),
            (
                create(parameters={"provisioner": "cloud"}),
                "INVALID_ARGUMENT",
                "'cloud' is not known; one of shelf",
            ),
            (create(parameters={"size": "9"}), "INVALID_ARGUMENT", "'size': is not known"),
            (create(parameters={"fencing": "no"}), "INVALID_ARGUMENT", "fencing 'no'"),
            (create(capacity_range={"required_bytes": -1}), "INVALID_ARGUMENT", "is negative"),
            (
                create(capacity_range={"required_bytes": 9, "limit_bytes": 8}),
                "INVALID_ARGUMENT",
                "more than the limit",
            ),
            (
                create(capacity_range={"required_bytes": 99 * GIBI}),
                "RESOURCE_EXHAUSTED",
                "not free",
            ),
            (create(secrets={"password": "hush"}), "INVALID_ARGUMENT", "'password': is not known"),
        ]:
            answer = await it.refusal("CreateVolume", request)
            assert (answer[0], text in answer[1]) == (code, True), (text, answer)
        assert it.shelf.claims == {}
        await it.call("CreateVolume", create())
        larger = create(capacity_range=csi.CapacityRange(required_bytes=4 * GIBI))
        assert (await it.refusal("CreateVolume", larger))[0] == "ALREADY_EXISTS"
        other = create(parameters={"fencing": "off", "colour": "red"})
        assert (await it.refusal("CreateVolume", other))[0] == "ALREADY_EXISTS"

    run(refusals, tmp_path)


def test_other_calls_refuse(tmp_path: Path) -> None:
    unknown = {"volume_id": "shelf:c9"}
    size = csi.CapacityRange(required_bytes=1)

    async def refusals(it: Controller) -> None:
        await it.call("CreateVolume", create())
        expand = csi.ControllerExpandVolumeRequest
        validate = csi.ValidateVolumeCapabilitiesRequest
        publish = csi.ControllerPublishVolumeRequest
        for method, request, code in [
            ("DeleteVolume", None, "INVALID_ARGUMENT"),
            ("ControllerExpandVolume", expand(capacity_range=size), "INVALID_ARGUMENT"),
            ("ControllerExpandVolume", expand(volume_id="shelf:c0"), "INVALID_ARGUMENT"),
            ("ControllerExpandVolume", expand(**unknown, capacity_range=size), "NOT_FOUND"),
            (
                "ControllerExpandVolume",
                expand(volume_id="shelf:c0", capacity_range={"required_bytes": 99 * GIBI}),
                "OUT_OF_RANGE",
            ),
            ("ValidateVolumeCapabilities", None, "INVALID_ARGUMENT"),
            ("ValidateVolumeCapabilities", validate(volume_id="shelf:c0"), "INVALID_ARGUMENT"),
            (
                "ValidateVolumeCapabilities",
                validate(**unknown, volume_capabilities=[capability()]),
                "NOT_FOUND",
            ),
            ("ControllerPublishVolume", None, "INVALID_ARGUMENT"),
            ("ControllerPublishVolume", publish(volume_id="v"), "INVALID_ARGUMENT"),
            ("ControllerPublishVolume", publish(volume_id="v", node_id="n"), "INVALID_ARGUMENT"),
            ("ControllerUnpublishVolume", None, "INVALID_ARGUMENT"),
            ("ListVolumes", csi.ListVolumesRequest(max_entries=-1), "INVALID_ARGUMENT"),
            ("ListVolumes", csi.ListVolumesRequest(starting_token="7"), "ABORTED"),
            ("ListVolumes", csi.ListVolumesRequest(starting_token="after:"), "ABORTED"),
        ]:
            answer = await it.refusal(method, request)
            assert answer[0] == code, (method, request, answer)
        ready = publish(volume_id="v", node_id="n", volume_capability=capability())
        await it.call("ControllerPublishVolume", ready)
        await it.call("ControllerUnpublishVolume", csi.ControllerUnpublishVolumeRequest(**unknown))

    run(refusals, tmp_path)


def test_list_page_by_page_while_volumes_come_and_go(tmp_path: Path) -> None:
    async def pages(it: Controller) -> None:
        for number in range(5):
            await it.call("CreateVolume", create(f"pvc-{number}"))
        everything = await it.call("ListVolumes")
        assert len(everything.entries) == 5
        assert everything.next_token == ""
        assert everything.entries[0].volume.volume_context["fencing"] == "required"
        found: list[str] = []
        token = ""
        while True:
            page = await it.call(
                "ListVolumes", csi.ListVolumesRequest(max_entries=2, starting_token=token)
            )
            found += [entry.volume.volume_id for entry in page.entries]
            if len(found) == 2:
                # The one that the token names goes, and one before it.
                await it.call("DeleteVolume", csi.DeleteVolumeRequest(volume_id="shelf:c1"))
                await it.call("DeleteVolume", csi.DeleteVolumeRequest(volume_id="shelf:c0"))
            token = page.next_token
            if not token:
                break
        assert found == [f"shelf:c{number}" for number in range(5)]

    run(pages, tmp_path)


def test_validate(tmp_path: Path) -> None:
    async def validate(it: Controller) -> None:
        volume = (await it.call("CreateVolume", create())).volume
        ask = csi.ValidateVolumeCapabilitiesRequest(
            volume_id=volume.volume_id,
            volume_context=volume.volume_context,
            volume_capabilities=[capability(), capability("MULTI_NODE_READER_ONLY")],
        )
        answer = await it.call("ValidateVolumeCapabilities", ask)
        assert answer.confirmed.volume_capabilities == ask.volume_capabilities
        ask.volume_context["lun"] = "7"
        answer = await it.call("ValidateVolumeCapabilities", ask)
        assert not answer.HasField("confirmed")
        assert answer.message == "volume_context differs in lun"
        ask.volume_context.clear()
        ask.volume_capabilities.append(capability("MULTI_NODE_MULTI_WRITER", block=True))
        answer = await it.call("ValidateVolumeCapabilities", ask)
        assert "keeps out the other nodes" in answer.message

    run(validate, tmp_path)


def test_capacity(tmp_path: Path) -> None:
    async def capacity(it: Controller) -> None:
        ask = csi.GetCapacityRequest(
            volume_capabilities=[capability()], parameters={"provisioner": "shelf"}
        )
        answer = await it.call("GetCapacity", ask)
        assert answer.available_capacity == answer.maximum_volume_size.value == 10 * GIBI
        assert not answer.HasField("minimum_volume_size")
        ask.volume_capabilities.append(capability("MULTI_NODE_MULTI_WRITER"))
        assert (await it.call("GetCapacity", ask)).available_capacity == 0

    run(capacity, tmp_path)


def test_identity_of_a_controller(tmp_path: Path) -> None:
    async def identity(it: Controller) -> None:
        info = await it.call("GetPluginInfo", service="Identity")
        assert info.name == "iscsi.pyscsi-init.io"
        assert info.vendor_version
        assert (await it.call("Probe", service="Identity")).ready.value is True
        kinds = (await it.call("GetPluginCapabilities", service="Identity")).capabilities
        assert {kind.WhichOneof("type") for kind in kinds} == {"service", "volume_expansion"}
        types = (await it.call("ControllerGetCapabilities")).capabilities
        names = csi.ControllerServiceCapability.RPC.Type
        assert {names.Name(each.rpc.type) for each in types} == {
            "CREATE_DELETE_VOLUME",
            "LIST_VOLUMES",
            "GET_CAPACITY",
            "EXPAND_VOLUME",
            "SINGLE_NODE_MULTI_WRITER",
        }
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await it.call("NodeGetInfo", service="Node")
        assert caught.value.code() is Code.UNIMPLEMENTED

    run(identity, tmp_path)


def test_a_caller_that_gives_up_stops_nothing(tmp_path: Path) -> None:
    async def impatient(it: Controller) -> None:
        it.shelf.hold = anyio.Event()
        waiting = asyncio.ensure_future(it.call("CreateVolume", create()))
        await until(lambda: it.shelf.credentials)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        code, text = await it.refusal("CreateVolume", create())
        assert (code, "busy with CreateVolume" in text) == ("ABORTED", True)
        it.shelf.hold.set()
        await until(lambda: it.shelf.claims)
        assert (await it.call("CreateVolume", create())).volume.volume_id == "shelf:c0"
        assert len(it.shelf.claims) == 1

    run(impatient, tmp_path)


def test_what_is_under_way_is_cancelled_at_the_end(tmp_path: Path) -> None:
    async def end(it: Controller) -> None:
        it.shelf.hold = anyio.Event()
        calls.append(asyncio.ensure_future(it.refusal("CreateVolume", create())))
        await until(lambda: it.shelf.credentials)

    calls: list[asyncio.Future[tuple[str, str]]] = []

    async def main() -> None:
        shelf, path, stop = Shelf(), tmp_path / "csi.sock", anyio.Event()
        server = CsiServer(str(path), manager=None, provisioners=[shelf], node_id="n")
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            async with anyio.create_task_group() as group:
                await group.start(lambda task_status: server.serve(stop, task_status=task_status))
                await end(Controller(channel, shelf, path))
                stop.set()
            code, text = await calls[0]
            assert (code, "is stopping" in text) == ("UNAVAILABLE", True)
            assert shelf.claims == {}

    anyio.run(main, backend="asyncio")


def test_the_socket_is_for_root_alone_and_not_taken_from_a_server(tmp_path: Path) -> None:
    async def look(it: Controller) -> None:
        mode = stat.S_IMODE(it.path.stat().st_mode)
        assert mode == 0o600
        second = CsiServer(str(it.path), manager=None, provisioners=[Shelf()], node_id="n")
        with pytest.raises(InvalidSpec, match="has a server already; stop that one first"):
            await second.serve(anyio.Event())
        await it.call("Probe", service="Identity")

    run(look, tmp_path)


def test_a_socket_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "csi.sock"))
    run(lambda it: it.call("Probe", service="Identity"), tmp_path)


def test_a_file_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "csi.sock").write_text("mine")
    with pytest.raises(ExceptionGroup) as caught:
        run(lambda it: it.call("Probe", service="Identity"), tmp_path)
    assert caught.group_contains(InvalidSpec, match="is there and no socket")
    assert (tmp_path / "csi.sock").read_text() == "mine"


@pytest.mark.parametrize("text", ["unix:///a/b", "unix:/a/b", "/a/b"])
def test_addresses(text: str) -> None:
    assert socket_path(text) == Path("/a/b")


@pytest.mark.parametrize("text", ["tcp://0.0.0.0:1", "unix://a", "a", "", "/" + "x" * 107])
def test_no_addresses(text: str) -> None:
    with pytest.raises(InvalidSpec):
        socket_path(text)


def test_one_call_at_a_time() -> None:
    async def main() -> None:
        calls, hold = Calls(), asyncio.Event()

        async def wait() -> str:
            await hold.wait()
            return "done"

        first = asyncio.create_task(calls.alone("v", "first", wait))
        await asyncio.sleep(0)
        with pytest.raises(OperationInProgress, match="busy with first"):
            await calls.alone("v", "second", wait)
        other = asyncio.create_task(calls.alone("w", "other", wait))
        await asyncio.sleep(0)
        hold.set()
        assert await first == await other == "done"
        assert await calls.alone("v", "again", wait) == "done"
        hold.clear()
        last = asyncio.create_task(calls.alone("v", "last", wait))
        await asyncio.sleep(0)
        await calls.stop()
        with pytest.raises(Refused, match="is stopping"):
            await last

    asyncio.run(main())
