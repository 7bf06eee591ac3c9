# SPDX-License-Identifier: Apache-2.0
"""What a worker tells about its volume: plain values of the LUN, the session and the channel.

One place for the words of the ``ready`` document and of the ``status`` reply, so that they cannot
drift apart. Everything here is JSON and holds no secret.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fusefs.fuse import Channel
from fusefs.host import Refusal
from pyscsi_init import BlockDevice, Identity, LogicalUnit, Session
from pyscsi_init.device import Fence
from pyscsi_init.errors import AuthenticationFailed, TargetAuthenticationFailed
from pyscsi_init.names import isid_text
from pyscsi_init.transport import Network


def identity_facts(identity: Identity) -> dict[str, Any]:
    """What tells this logical unit from any other (volume/checks.py compares it)."""
    return {
        "name": identity.name,
        "key": identity.key,
        "block_size": identity.block_size,
        "size_bytes": identity.size_bytes,
        "witnesses": list(identity.witnesses),
    }


def session_facts(session: Session) -> dict[str, Any]:
    """The I_T nexus, in the standard's words; the network where one was named."""
    return {
        "target": session.target_name,
        "portal": str(session.portal) if session.portal else "",
        **Network.of(session.settings).named(),
        "initiator_name": session.initiator_name,
        "isid": isid_text(session.isid),
        "tsih": session.tsih,
        "state": session.state.name,
        "keys": session.parameters.as_keys(),
    }


def fence_facts(fence: Fence) -> dict[str, Any]:
    """What keeps other nodes from writing."""
    return {"key": f"0x{fence.key:016x}", "held": fence.held}


def ready_facts(
    device: BlockDevice, fuse_connection: int, refusals: Sequence[Refusal]
) -> dict[str, Any]:
    """The facts of the ``ready`` document."""
    facts: dict[str, Any] = {
        "size_bytes": device.size_bytes,
        "block_size": device.block_size,
        "write_protected": device.read_only,
        "fuse_connection": fuse_connection,
        "protection_refused": [str(refusal) for refusal in refusals],
    }
    if isinstance(device, LogicalUnit):
        facts["block_size"] = device.identity.block_size
        facts["identity"] = identity_facts(device.identity)
        facts["session"] = session_facts(device.session)
        if device.fence is not None:
            # Whether it was there before is told of the attach alone: a successor always finds it.
            facts["fence"] = {**fence_facts(device.fence), "found": device.fence.found}
    return facts


def is_of_the_secret(error: BaseException | None) -> bool:
    """Whether another CHAP secret may be what a login needs."""
    return isinstance(error, (AuthenticationFailed, TargetAuthenticationFailed))


def status_facts(device: BlockDevice, channel: Channel) -> dict[str, Any]:
    """The reply to ``status``."""
    io = dataclasses.asdict(channel.statistics)
    # At the most: writes that asked for stable storage themselves are among them.
    flushed, unknown = io.pop("flushed_writes"), io.pop("unflushed_before")
    unflushed = None if unknown else max(0, io["writes"] - flushed)
    io["unflushed_writes"] = 0 if channel.file.fua else unflushed
    io_error = io.pop("last_error")
    status: dict[str, Any] = {
        "size_bytes": device.size_bytes,
        "io": io,
        "recovering": False,
        "recoveries": 0,
        "last_error": io_error,
    }
    if isinstance(device, LogicalUnit):
        session = device.session
        if device.fence is not None:
            status["fence"] = fence_facts(device.fence)
        status["session"] = session_facts(session)
        status["recovering"] = session.recovering and session.failed is None
        status["failed"] = str(session.failed) if session.failed else ""
        status["recoveries"] = session.statistics.recoveries
        # What whoever uses the volume was told comes before an outage that is over.
        if session.last_error and (session.recovering or session.failed or not io_error):
            status["last_error"] = str(session.last_error)
        status["secret_refused"] = is_of_the_secret(session.last_error)
    return status
