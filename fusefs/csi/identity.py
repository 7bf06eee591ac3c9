# SPDX-License-Identifier: Apache-2.0
"""The Identity service: who we are, what we can do, whether we are fit for it."""

from __future__ import annotations

import errno
import importlib.metadata

from fusefs.csi.errors import Code, Refused
from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host import Host
from fusefs.volume.hostcalls import host_call

DRIVER_NAME = "iscsi.pyscsi-init.io"

_Service = csi.PluginCapability.Service
_Expansion = csi.PluginCapability.VolumeExpansion


class Identity:
    """``host`` is the node that volumes are to be attached to; None where there is only the
    Controller service."""

    def __init__(self, *, host: Host | None, controller: bool) -> None:
        self._host = host
        self._controller = controller

    async def GetPluginInfo(self, _request: csi.GetPluginInfoRequest) -> csi.GetPluginInfoResponse:
        """Name and version."""
        try:
            version = importlib.metadata.version("pyscsi-init")
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed as a package)"
        return csi.GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=version)

    async def GetPluginCapabilities(
        self, _request: csi.GetPluginCapabilitiesRequest
    ) -> csi.GetPluginCapabilitiesResponse:
        """A controller where there is one; volumes grow while they are in use."""
        capabilities = [
            csi.PluginCapability(
                volume_expansion=_Expansion(type=_Expansion.ONLINE),
            )
        ]
        if self._controller:
            capabilities.append(
                csi.PluginCapability(service=_Service(type=_Service.CONTROLLER_SERVICE))
            )
        return csi.GetPluginCapabilitiesResponse(capabilities=capabilities)

    async def Probe(self, _request: csi.ProbeRequest) -> csi.ProbeResponse:
        """Whether this node has what a volume needs.

        Raises:
            Refused: FAILED_PRECONDITION, and what is missing.
        """
        if self._host is not None:
            found = await host_call(self._host.capabilities)
            lacks = [
                what
                for what, there in (
                    ("the rights of root", found.is_root),
                    ("/dev/fuse", found.has_fuse),
                    ("/dev/loop-control", found.has_loop),
                )
                if not there
            ]
            # Seen, and refused by the device group of a container that is not privileged.
            lacks += [
                f"the right to open {path}"
                for path, number in found.refused_devices.items()
                if number == errno.EPERM
            ]
            if lacks:
                raise Refused(
                    Code.FAILED_PRECONDITION,
                    f"this node, or this container of it, lacks {', '.join(lacks)}",
                    remedy="run it privileged, with its /dev; `pyscsi-init doctor` says more",
                )
        return csi.ProbeResponse(ready={"value": True})
