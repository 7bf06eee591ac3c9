# SPDX-License-Identifier: Apache-2.0
"""The Node service: volumes of this node, from the staging path to the directories of the pods.

Stage is attach and mount, publish is a bind, and the ways back are the ways back. An inline volume
has no stage: publish mounts it where the pod wants it. The service remembers nothing: what there is
stands in the state of the volumes, so it may be killed at any moment, and the orchestrator's next
call finds what the last one did.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any

import anyio

from fusefs.csi import inline
from fusefs.csi.attributes import is_ephemeral, read_attributes
from fusefs.csi.calls import Calls
from fusefs.csi.capabilities import Access, read_capability
from fusefs.csi.condition import condition_of, is_lost
from fusefs.csi.errors import Code, Refused, missing
from fusefs.csi.secrets import read_secrets
from fusefs.csi.wire import csi_pb2 as csi
from fusefs.errors import NameInUse, NoSuchVolume, VolumeError, WorkerFailed
from fusefs.spec import VolumeSpec
from fusefs.volume import checks, places
from fusefs.volume.manager import VolumeManager
from fusefs.volume.status import VolumeStatus
from fusefs.volume.usage import places_of, usage
from pyscsi_init.secret import Chap

log = logging.getLogger("fusefs.csi")

_Type = csi.NodeServiceCapability.RPC

CAPABILITIES = (
    _Type.STAGE_UNSTAGE_VOLUME,
    _Type.GET_VOLUME_STATS,
    _Type.EXPAND_VOLUME,
    _Type.VOLUME_CONDITION,
    _Type.SINGLE_NODE_MULTI_WRITER,
)


class Node:
    """The volumes of ``manager``, on the node that the orchestrator knows as ``node_id``."""

    def __init__(
        self, manager: VolumeManager, calls: Calls, *, node_id: str, max_volumes: int = 0
    ) -> None:
        self._manager = manager
        self._calls = calls
        self._node_id = node_id
        self._max_volumes = max_volumes

    async def NodeGetInfo(self, _request: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:
        """Who this node is."""
        return csi.NodeGetInfoResponse(
            node_id=self._node_id, max_volumes_per_node=self._max_volumes
        )

    async def NodeGetCapabilities(
        self, _request: csi.NodeGetCapabilitiesRequest
    ) -> csi.NodeGetCapabilitiesResponse:
        """What this service can do."""
        return csi.NodeGetCapabilitiesResponse(
            capabilities=[csi.NodeServiceCapability(rpc=_Type(type=each)) for each in CAPABILITIES]
        )

    # -- from the wire up -------------------------------------------------------------------------

    async def NodeStageVolume(
        self, request: csi.NodeStageVolumeRequest
    ) -> csi.NodeStageVolumeResponse:
        """Attach the LUN; a filesystem is mounted at the staging path."""
        name = _volume_id(request)
        path = _path(request, "staging_target_path")
        if is_ephemeral(request.volume_context):
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"volume {name!r} is an inline volume, and those are not staged",
                remedy="publish it",
            )
        spec, chap, access = _volume(request, name)
        if access.block:
            bring_up = functools.partial(self._manager.ensure_attached, spec, chap)
        else:
            await places.refuse_link(self._manager.host, "staging_target_path", path)
            bring_up = functools.partial(self._manager.ensure_mounted, spec, path, chap)
        stage = functools.partial(self._stage, name, bring_up)
        await self._calls.alone(name, "NodeStageVolume", stage)
        return csi.NodeStageVolumeResponse()

    async def _stage(self, name: str, bring_up: Callable[[], Awaitable[VolumeStatus]]) -> None:
        try:
            await bring_up()
        except WorkerFailed:
            volume = await self._look(name)
            if volume is None or not is_lost(volume) or self._published(volume):
                raise
            # It has failed for good and nobody has it: what is asked for is one that works.
            await self._end(name, force=True)
            await bring_up()

    async def NodePublishVolume(
        self, request: csi.NodePublishVolumeRequest
    ) -> csi.NodePublishVolumeResponse:
        """Bring a staged volume to where a pod finds it; an inline volume comes from nothing."""
        name = _volume_id(request)
        target = _path(request, "target_path")
        await places.refuse_link(self._manager.host, "target_path", target)
        if is_ephemeral(request.volume_context):
            publish = self._inline(request, name, target)
        else:
            if not request.staging_target_path:
                raise Refused(
                    Code.FAILED_PRECONDITION,
                    f"volume {name!r}: staging_target_path is missing",
                    remedy="stage it first",
                )
            spec, _, access = _volume(request, name)
            publish = functools.partial(
                self._publish,
                spec,
                access,
                _path(request, "staging_target_path"),
                target,
                read_only=request.readonly,
            )
        await self._calls.alone(name, "NodePublishVolume", publish)
        return csi.NodePublishVolumeResponse()

    def _inline(
        self, request: csi.NodePublishVolumeRequest, name: str, target: str
    ) -> Callable[[], Awaitable[None]]:
        spec, chap, access = _volume(request, name, read_only=request.readonly)
        spec = inline.confine(spec, access)

        async def publish() -> None:
            made = await places.make_directory(target)
            try:
                await self._manager.ensure_mounted(spec, target, chap, once=True)
            except BaseException:
                if made:
                    with anyio.CancelScope(shield=True), contextlib.suppress(VolumeError):
                        await self._take_away(target)
                raise

        return publish

    async def _publish(
        self, wanted: VolumeSpec, access: Access, staging: str, target: str, *, read_only: bool
    ) -> None:
        """Answer a second publish as the table of NodePublishVolume has it: the same again is done;
        the same target with other arguments ALREADY_EXISTS; another target where only one may be
        FAILED_PRECONDITION."""
        name = wanted.name
        try:
            volume = await self._manager.get(name)
            staged = await self._manager.spec_of(name)
        except NoSuchVolume:
            raise Refused(
                Code.NOT_FOUND, f"volume {name!r} is not staged on this node", remedy="stage it"
            ) from None
        if is_lost(volume):
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"volume {name!r} has failed: {volume.last_error}",
                remedy="unpublish it everywhere and unstage it, then stage it again",
            )
        if volume.mountpoint and volume.mountpoint != await places.resolve(staging):
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"volume {name!r} is not staged at {staging}, but at {volume.mountpoint}",
                remedy="publish it from there",
            )
        if volume.mountpoint and volume.mountpoint not in self._mounted():
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"volume {name!r} is not mounted at {staging} any more",
                remedy="stage it again",
            )
        place = await places.resolve(target)
        others = [bind for bind in volume.binds if bind.directory != place]
        here = len(others) < len(volume.binds)
        if differs := checks.difference(staged, wanted):
            if here:
                raise NameInUse(name, difference=differs)
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"volume {name!r} is staged with {differs}",
                remedy="unstage it and stage it so",
            )
        if others and not access.many_targets and not here:
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"volume {name!r} is published at {others[0].directory}, and access mode "
                f"{access.mode} has one place",
                remedy="unpublish it there, or use SINGLE_NODE_MULTI_WRITER",
            )
        if access.block:
            await self._manager.publish_device(
                name, target, read_only or staged.read_only, note=access.mode
            )
        else:
            await self._manager.ensure_published(name, target, read_only, note=access.mode)

    # -- back to nothing --------------------------------------------------------------------------

    async def NodeUnpublishVolume(
        self, request: csi.NodeUnpublishVolumeRequest
    ) -> csi.NodeUnpublishVolumeResponse:
        """Take the volume from a pod, and what it stood on with it."""
        name = _volume_id(request)
        target = _path(request, "target_path")
        unpublish = functools.partial(self._unpublish, name, target)
        await self._calls.alone(name, "NodeUnpublishVolume", unpublish)
        return csi.NodeUnpublishVolumeResponse()

    async def _unpublish(self, name: str, target: str) -> None:
        volume = await self._look(name)
        if volume is None:
            await self._manager.ensure_gone(name)
        else:
            place = await places.resolve(target)
            if volume.once and volume.mountpoint in ("", place):
                # Also one whose publish or unpublish was cut off.
                await self._end(name, force=is_lost(volume))
                await self._manager.forget(name)
            elif volume.mountpoint == place:
                raise Refused(
                    Code.FAILED_PRECONDITION,
                    f"volume {name!r} is staged at {place}, not published",
                    remedy="unstage it",
                )
            else:
                await self._manager.ensure_unpublished(name, target)
        await self._take_away(target)

    async def _take_away(self, target: str) -> None:
        await places.remove(self._manager.host, self._manager.directories, target)

    async def NodeUnstageVolume(
        self, request: csi.NodeUnstageVolumeRequest
    ) -> csi.NodeUnstageVolumeResponse:
        """Unmount the volume and log out. The staging path stays: it is the orchestrator's."""
        name = _volume_id(request)
        path = _path(request, "staging_target_path")
        unstage = functools.partial(self._unstage, name, path)
        await self._calls.alone(name, "NodeUnstageVolume", unstage)
        return csi.NodeUnstageVolumeResponse()

    async def _unstage(self, name: str, path: str) -> None:
        volume = await self._look(name)
        if volume is None:
            await self._manager.ensure_gone(name)
            return
        if volume.mountpoint and volume.mountpoint != await places.resolve(path):
            return  # it is staged elsewhere, and here is nothing
        if left := self._published(volume):
            raise Refused(
                Code.FAILED_PRECONDITION,
                f"volume {name!r} is still published at {', '.join(left)}",
                remedy="unpublish it there first",
            )
        await self._end(name, force=is_lost(volume))

    async def _end(self, name: str, *, force: bool) -> None:
        report = await self._manager.ensure_gone(name, force=force)
        if report is not None and not report.clean:
            log.warning("volume %s: its end was not clean: %s", name, report)

    def _published(self, volume: VolumeStatus) -> list[str]:
        """Where it still is."""
        mounted = self._mounted()
        return [bind.directory for bind in volume.binds if bind.directory in mounted]

    def _mounted(self) -> set[str]:
        return {entry.mountpoint for entry in self._manager.host.mounts()}

    async def _look(self, name: str) -> VolumeStatus | None:
        try:
            return await self._manager.get(name)
        except NoSuchVolume:
            return None

    # -- looking, growing -------------------------------------------------------------------------

    async def NodeGetVolumeStats(
        self, request: csi.NodeGetVolumeStatsRequest
    ) -> csi.NodeGetVolumeStatsResponse:
        """How full the volume is, and how it is. Never waits for the target."""
        name = _volume_id(request)
        volume = await self._manager.get(name)
        found = await usage(self._manager.host, volume, _path(request, "volume_path"))
        unit = csi.VolumeUsage
        answers = [
            csi.VolumeUsage(
                unit=unit.BYTES,
                total=found.size_bytes,
                used=found.used_bytes,
                available=found.available_bytes,
            )
        ]
        if found.inodes:
            answers.append(
                csi.VolumeUsage(
                    unit=unit.INODES,
                    total=found.inodes,
                    used=found.inodes - found.inodes_free,
                    available=found.inodes_free,
                )
            )
        return csi.NodeGetVolumeStatsResponse(
            usage=answers, volume_condition=condition_of(volume, found)
        )

    async def NodeExpandVolume(
        self, request: csi.NodeExpandVolumeRequest
    ) -> csi.NodeExpandVolumeResponse:
        """Take over the size that the LUN has by now, up to the mounted filesystem."""
        name = _volume_id(request)
        path = _path(request, "volume_path")
        wanted = request.capacity_range
        if request.HasField("volume_capability"):
            read_capability(request.volume_capability)
        await places_of(await self._manager.get(name), path)
        report = await self._calls.alone(
            name, "NodeExpandVolume", functools.partial(self._manager.resize, name)
        )
        size = report.size_bytes
        if wanted.required_bytes > size:
            raise Refused(
                Code.OUT_OF_RANGE,
                f"the LUN of volume {name!r} has {size} bytes, and {wanted.required_bytes} are "
                f"required",
                remedy="grow the LUN at its target, then expand the volume again",
            )
        if 0 < wanted.limit_bytes < size:
            raise Refused(
                Code.OUT_OF_RANGE,
                f"the LUN of volume {name!r} has {size} bytes, more than the limit of "
                f"{wanted.limit_bytes}",
                remedy="raise the limit: a LUN in use is never made smaller",
            )
        return csi.NodeExpandVolumeResponse(capacity_bytes=size)


def _volume(
    request: csi.NodeStageVolumeRequest | csi.NodePublishVolumeRequest,
    name: str,
    *,
    read_only: bool = False,
) -> tuple[VolumeSpec, Chap | None, Access]:
    """What a call says of its volume."""
    if not request.HasField("volume_capability"):
        raise missing("volume_capability")
    access = read_capability(request.volume_capability)
    attributes = read_attributes(request.volume_context)
    chap = None
    if isinstance(request, csi.NodeStageVolumeRequest) or is_ephemeral(request.volume_context):
        chap = read_secrets(request.secrets, wanted=attributes.wants_chap)
    return attributes.spec(name, access, read_only=read_only), chap, access


def _volume_id(request: Any) -> str:
    name = str(request.volume_id)
    if not name:
        raise missing("volume_id")
    return name


def _path(request: Any, field: str) -> str:
    path = str(getattr(request, field))
    if not path:
        raise missing(field)
    if "\0" in path:
        raise Refused(Code.INVALID_ARGUMENT, f"{field} holds a zero byte")
    if not PurePosixPath(path).is_absolute():
        raise Refused(Code.INVALID_ARGUMENT, f"{field} {path!r} is not an absolute path")
    return path
