# SPDX-License-Identifier: Apache-2.0
"""What `docker volume inspect` shows of a volume: the protocol leaves the shape to the driver.

The words are those of `pyscsi-init status --json`, and nothing that could be a secret is among
them.
"""

from __future__ import annotations

from typing import Any

from fusefs.volume.known import KnownVolume
from fusefs.volume.status import VolumeStatus
from pyscsi_init.transport import Network

DEFINED = "defined"
"""The state of a volume that nobody uses: it is not attached, and no session is logged in."""


def status_of(known: KnownVolume) -> dict[str, Any]:
    """The Status of a volume."""
    status, spec = known.status, known.definition.spec
    shown: dict[str, Any] = {
        "state": status.state if status is not None else DEFINED,
        "url": spec.url,
        "read_only": spec.read_only,
        "on_disconnect": spec.on_disconnect,
        "users": dict(known.users),
    }
    shown |= Network.of(spec.session_settings()).named()
    if known.problem:
        shown["problem"] = known.problem
    if status is not None:
        shown |= _attached(status)
        shown["paths"] = _paths(known, status)
    return shown


def _attached(status: VolumeStatus) -> dict[str, Any]:
    session = status.session
    return {
        "device": status.loop,
        "fstype": status.fstype,
        "size_bytes": status.size_bytes,
        "session": {
            key: session.get(key, "")
            for key in ("target", "portal", "initiator_name", "isid", "state")
        },
        "io": dict(status.io),
        "recoveries": status.recoveries,
        "restarts": status.restarts,
        "last_error": status.last_error,
    }


def _paths(known: KnownVolume, status: VolumeStatus) -> list[dict[str, str]]:
    """Every portal of the volume, and which of them its session goes through."""
    used = str(status.session.get("portal", ""))
    portals = [portal.address for portal in known.definition.spec.address.portals]
    up = status.state not in ("recovering", "failed")
    if used and used not in portals:
        portals.insert(0, used)  # the target sent us there
    return [
        {
            "portal": portal,
            "state": ("active" if up else status.state) if portal == used else "standby",
        }
        for portal in portals
    ]
