# SPDX-License-Identifier: Apache-2.0
"""How a volume is, for an orchestrator: from what its session, its worker and the kernel say."""

from __future__ import annotations

from fusefs.csi.wire import csi_pb2 as csi
from fusefs.volume.status import VolumeStatus
from fusefs.volume.usage import Usage


def is_lost(volume: VolumeStatus) -> bool:
    """Whether an orderly end could save nothing of it. One that only lacks a mount is not, nor one
    whose worker has not answered in time: the next call sees more."""
    return volume.failed and not volume.savable and not volume.silent


def condition_of(volume: VolumeStatus, found: Usage) -> csi.VolumeCondition:
    """In words for people."""
    unknown = found.unknown
    reason = volume.last_error or unknown
    if volume.failed:
        return csi.VolumeCondition(abnormal=True, message=f"failed: {reason}")
    if volume.state == "recovering":
        return csi.VolumeCondition(
            abnormal=True,
            message="the target or the worker is away"
            + (f": {reason}" if reason else "")
            + f"; I/O is held as on_disconnect={volume.on_disconnect} says",
        )
    if unknown:
        return csi.VolumeCondition(
            abnormal=True, message=f"the filesystem gives no answer: {reason}"
        )
    if found.read_only and not volume.read_only:
        return csi.VolumeCondition(
            abnormal=True,
            message="the kernel has made the filesystem read-only, as after an error in it; end "
            "what uses it, unstage it, and stage it again, which checks it",
        )
    portal = volume.session.get("portal", "")
    return csi.VolumeCondition(
        abnormal=False, message=f"{volume.state}, logged in" + (f" to {portal}" if portal else "")
    )
