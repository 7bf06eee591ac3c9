# SPDX-License-Identifier: Apache-2.0
"""The Controller service: new volumes from the provisioners, and what is known of the old ones.

The StorageClass says by ``provisioner`` who makes the LUN. Its other parameters are either
attributes of the volume, which come back as the volume's context, or the provisioner's. A volume's
id is ``PROVISIONER:CLAIM``; nothing about a volume is kept here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from fusefs.csi import attributes
from fusefs.csi.calls import Calls
from fusefs.csi.capabilities import Access, read_capability
from fusefs.csi.errors import Code, Refused, missing
from fusefs.csi.secrets import read_secrets
from fusefs.csi.wire import csi_pb2 as csi
from fusefs.errors import InvalidSpec
from fusefs.volume.provision import NoSuchClaim, ProvisionedLun, Provisioner, SizeRange

_Type = csi.ControllerServiceCapability.RPC

CAPABILITIES = (
    _Type.CREATE_DELETE_VOLUME,
    _Type.LIST_VOLUMES,
    _Type.GET_CAPACITY,
    _Type.EXPAND_VOLUME,
    _Type.SINGLE_NODE_MULTI_WRITER,
)
PROVISIONER = "provisioner"


class Controller:
    """The volumes of ``provisioners``."""

    def __init__(self, provisioners: Iterable[Provisioner], calls: Calls) -> None:
        self._provisioners = {each.name: each for each in provisioners}
        self._calls = calls

    async def ControllerGetCapabilities(
        self, _request: csi.ControllerGetCapabilitiesRequest
    ) -> csi.ControllerGetCapabilitiesResponse:
        """What this service can do."""
        return csi.ControllerGetCapabilitiesResponse(
            capabilities=[
                csi.ControllerServiceCapability(rpc=_Type(type=each)) for each in CAPABILITIES
            ]
        )

    # -- volumes come and go ----------------------------------------------------------------------

    async def CreateVolume(self, request: csi.CreateVolumeRequest) -> csi.CreateVolumeResponse:
        """A LUN for a name; the same name again is the same LUN."""
        if not request.name:
            raise missing("name")
        try:
            accesses = _accesses(request.volume_capabilities)
        except Refused as error:
            # There is no volume yet whose state could be to blame.
            raise Refused(Code.INVALID_ARGUMENT, str(error)) from error
        if request.HasField("volume_content_source"):
            raise Refused(
                Code.INVALID_ARGUMENT,
                "volume_content_source: this driver makes no copies",
                remedy="create an empty volume",
            )
        if request.mutable_parameters:
            raise Refused(
                Code.INVALID_ARGUMENT, "mutable_parameters: this driver does not have MODIFY_VOLUME"
            )
        provisioner, own, labels = self._chosen(request.parameters)
        size = _size(request.capacity_range)
        credentials = read_secrets(request.secrets, wanted=None)
        self._check(labels, accesses)
        create = functools.partial(provisioner.create, request.name, size, own, labels, credentials)
        # By the name: the volume has no id yet.
        key = f"{provisioner.name}:name:{request.name}"
        lun = await self._calls.alone(key, "CreateVolume", create)
        return csi.CreateVolumeResponse(volume=volume_of(provisioner.name, lun))

    async def DeleteVolume(self, request: csi.DeleteVolumeRequest) -> csi.DeleteVolumeResponse:
        """Give a LUN back; one that nobody has is no error."""
        volume_id = _volume_id(request)
        credentials = read_secrets(request.secrets, wanted=None)
        try:
            provisioner, claim = self._owner(volume_id)
        except NoSuchClaim:
            return csi.DeleteVolumeResponse()
        delete = functools.partial(provisioner.delete, claim, credentials)
        await self._calls.alone(volume_id, "DeleteVolume", delete)
        return csi.DeleteVolumeResponse()

    async def ControllerExpandVolume(
        self, request: csi.ControllerExpandVolumeRequest
    ) -> csi.ControllerExpandVolumeResponse:
        """Grow the LUN; the node that uses it takes the new size over."""
        volume_id = _volume_id(request)
        if not request.HasField("capacity_range"):
            raise missing("capacity_range")
        if request.HasField("volume_capability"):
            read_capability(request.volume_capability)
        size = _size(request.capacity_range)
        credentials = read_secrets(request.secrets, wanted=None)
        provisioner, claim = self._owner(volume_id)
        expand = functools.partial(provisioner.expand, claim, size, credentials)
        lun = await self._calls.alone(volume_id, "ControllerExpandVolume", expand)
        return csi.ControllerExpandVolumeResponse(
            capacity_bytes=lun.size_bytes, node_expansion_required=True
        )

    # -- nothing has to be done at a target to let a node in -------------------------------------

    async def ControllerPublishVolume(
        self, request: csi.ControllerPublishVolumeRequest
    ) -> csi.ControllerPublishVolumeResponse:
        """Nothing but checks: a node logs in by itself, and the CSIDriver says attachRequired
        false."""
        _volume_id(request)
        if not request.node_id:
            raise missing("node_id")
        if not request.HasField("volume_capability"):
            raise missing("volume_capability")
        read_capability(request.volume_capability)
        return csi.ControllerPublishVolumeResponse()

    async def ControllerUnpublishVolume(
        self, request: csi.ControllerUnpublishVolumeRequest
    ) -> csi.ControllerUnpublishVolumeResponse:
        """Nothing."""
        _volume_id(request)
        return csi.ControllerUnpublishVolumeResponse()

    # -- looking ----------------------------------------------------------------------------------

    async def ValidateVolumeCapabilities(
        self, request: csi.ValidateVolumeCapabilitiesRequest
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        """Whether a volume can be had so."""
        provisioner, claim = self._owner(_volume_id(request))
        lun = await provisioner.get(claim)
        if not request.volume_capabilities:
            raise missing("volume_capabilities")
        answer = csi.ValidateVolumeCapabilitiesResponse
        context = volume_of(provisioner.name, lun).volume_context
        given = dict(request.volume_context)
        if given and given != dict(context):
            names = sorted(
                name for name in {*given, *context} if given.get(name) != context.get(name)
            )
            return answer(message=f"volume_context differs in {', '.join(names)}")
        try:
            accesses = [read_capability(each) for each in request.volume_capabilities]
            self._check(lun.labels, accesses)
            if request.parameters:
                self._compare(request.parameters, provisioner, lun)
        except (Refused, InvalidSpec) as error:
            return answer(message=str(error))
        confirmed = answer.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
        )
        return answer(confirmed=confirmed)

    async def ListVolumes(self, request: csi.ListVolumesRequest) -> csi.ListVolumesResponse:
        """The volumes in order of their ids; a token names the last one that was told, so that
        volumes may come and go between two pages."""
        if request.max_entries < 0:
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"max_entries {request.max_entries} is negative",
                remedy="0 asks for all",
            )
        volumes = [
            volume_of(name, lun)
            for name, provisioner in self._provisioners.items()
            for lun in await provisioner.list()
        ]
        volumes.sort(key=lambda volume: volume.volume_id)
        if request.starting_token:
            kind, _, last = request.starting_token.partition(":")
            if kind != "after" or not last:
                raise Refused(
                    Code.ABORTED,
                    f"starting_token {request.starting_token!r} is none of ours",
                    remedy="begin without one",
                )
            volumes = [volume for volume in volumes if volume.volume_id > last]
        page = volumes[: request.max_entries or None]
        entry = csi.ListVolumesResponse.Entry
        return csi.ListVolumesResponse(
            entries=[entry(volume=volume) for volume in page],
            next_token=f"after:{page[-1].volume_id}" if len(page) < len(volumes) else "",
        )

    async def GetCapacity(self, request: csi.GetCapacityRequest) -> csi.GetCapacityResponse:
        """How much could be created; nothing where a capability is asked for that no volume has."""
        try:
            _accesses(request.volume_capabilities or [_ANY])
        except Refused as error:
            if error.code is not Code.FAILED_PRECONDITION:
                raise
            return csi.GetCapacityResponse(available_capacity=0)
        provisioner, own, _ = self._chosen(request.parameters)
        found = await provisioner.capacity(own)
        answer = csi.GetCapacityResponse(available_capacity=found.available)
        if found.largest is not None:
            answer.maximum_volume_size.value = found.largest
        if found.smallest is not None:
            answer.minimum_volume_size.value = found.smallest
        return answer

    # -- inside -----------------------------------------------------------------------------------

    def _chosen(
        self, parameters: Mapping[str, str]
    ) -> tuple[Provisioner, dict[str, str], dict[str, str]]:
        """Who makes the volume, with which parameters of its own, and the volume's attributes."""
        own: dict[str, str] = {}
        labels: dict[str, str] = {}
        name = ""
        for key, value in parameters.items():
            if key == PROVISIONER:
                name = value
            elif attributes.is_choice(key):
                labels[key] = value
            elif not key.startswith(attributes.OF_THE_ORCHESTRATOR):
                own[key] = value
        if not name and len(self._provisioners) == 1:
            name = next(iter(self._provisioners))
        if name not in self._provisioners:
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"parameter provisioner {name!r} is not known"
                if name
                else "parameter provisioner is missing",
                remedy=f"one of {', '.join(self._provisioners)}",
            )
        return self._provisioners[name], own, labels

    def _compare(
        self, parameters: Mapping[str, str], provisioner: Provisioner, lun: ProvisionedLun
    ) -> None:
        chosen, own, labels = self._chosen(parameters)
        given, had = {**own, **labels}, {**lun.parameters, **lun.labels}
        names = sorted(name for name in {*given, *had} if given.get(name) != had.get(name))
        if chosen is not provisioner:
            names.append(PROVISIONER)
        if names:
            raise InvalidSpec("parameters", None, f"differ in {', '.join(names)}")

    def _owner(self, volume_id: str) -> tuple[Provisioner, str]:
        name, _, claim = volume_id.partition(":")
        if name not in self._provisioners or not claim:
            raise NoSuchClaim(volume_id)
        return self._provisioners[name], claim

    def _check(self, labels: Mapping[str, str], accesses: Iterable[Access]) -> None:
        """Refuse now what every node would refuse later."""
        found = attributes.read_attributes({**_ANYWHERE, **labels})
        for access in accesses:
            found.spec("volume", access)


_ANYWHERE = {"targetPortal": "192.0.2.1", "iqn": "iqn.2026-11.example:any", "lun": "0"}
"""A place that stands in for the one that is not known yet."""

_ANY = csi.VolumeCapability(
    block=csi.VolumeCapability.BlockVolume(),
    access_mode=csi.VolumeCapability.AccessMode(
        mode=csi.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    ),
)


def volume_of(provisioner: str, lun: ProvisionedLun) -> csi.Volume:
    """A LUN as the orchestrator knows it."""
    portals = [portal.address for portal in lun.url.portals]
    context = {
        **lun.labels,
        "targetPortal": portals[0],
        "iqn": lun.url.target,
        "lun": str(lun.url.lun),
    }
    if len(portals) > 1:
        context["portals"] = json.dumps(portals)
    return csi.Volume(
        volume_id=f"{provisioner}:{lun.claim_id}",
        capacity_bytes=lun.size_bytes,
        volume_context=context,
    )


def _accesses(capabilities: Iterable[csi.VolumeCapability]) -> list[Access]:
    found = [read_capability(each) for each in capabilities]
    if not found:
        raise missing("volume_capabilities")
    return found


def _size(wanted: csi.CapacityRange) -> SizeRange:
    return SizeRange(wanted.required_bytes, wanted.limit_bytes)


def _volume_id(request: Any) -> str:
    volume_id = str(request.volume_id)
    if not volume_id:
        raise missing("volume_id")
    return volume_id
