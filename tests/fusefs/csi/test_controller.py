# SPDX-License-Identifier: Apache-2.0
"""The Controller service through its socket; no target and no root needed."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from fusefs.csi.errors import Code
from fusefs.csi.wire import csi_pb2 as csi
from tests.fusefs.csi.shelf import (
    GIBI,
    Controller,
    capability,
    create,
    run,
)


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
        ask.parameters.update(create().parameters)
        answer = await it.call("ValidateVolumeCapabilities", ask)
        assert answer.confirmed.parameters == ask.parameters
        ask.parameters["colour"] = "blue"
        answer = await it.call("ValidateVolumeCapabilities", ask)
        assert answer.message == "parameters: differ in colour"
        ask.parameters.clear()
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
