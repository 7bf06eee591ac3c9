# SPDX-License-Identifier: Apache-2.0
"""What a VolumeCapability asks for, in the words of the volume layer; and what we refuse of it.

A filesystem of ours belongs to one node as soon as somebody writes: ext4, xfs and btrfs are
destroyed by a second one. A raw block device may be had by several nodes, whose software must know
what it does; then no reservation keeps the others away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fusefs.csi.errors import Code, Refused, missing
from fusefs.csi.wire import csi_pb2 as csi

_Mode = csi.VolumeCapability.AccessMode

READ_ONLY = (_Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY)
SHARED_WRITERS = (_Mode.MULTI_NODE_SINGLE_WRITER, _Mode.MULTI_NODE_MULTI_WRITER)
MANY_TARGETS = (_Mode.MULTI_NODE_READER_ONLY, _Mode.SINGLE_NODE_MULTI_WRITER, *SHARED_WRITERS)
"""The modes in which one node may publish a volume at several target paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One capability, understood."""

    mode: str
    block: bool
    fstype: str
    mount_options: tuple[str, ...]
    read_only: bool
    many_targets: bool
    shared_with_nodes: bool
    """Other nodes may write at the same time."""


def read_capability(capability: csi.VolumeCapability) -> Access:
    """The capability of a call.

    Raises:
        Refused: INVALID_ARGUMENT, it is not complete or not known; FAILED_PRECONDITION, no volume
            of ours has it.
    """
    kind = capability.WhichOneof("access_type")
    if kind is None:
        raise missing("volume_capability.access_type", remedy="say mount or block")
    number = capability.access_mode.mode
    if number == _Mode.UNKNOWN:
        raise missing("volume_capability.access_mode", remedy="say SINGLE_NODE_WRITER or another")
    try:
        mode = _Mode.Mode.Name(number)
    except ValueError:
        raise Refused(Code.INVALID_ARGUMENT, f"access mode {number} is not known") from None
    block = kind == "block"
    if number in SHARED_WRITERS and not block:
        raise Refused(
            Code.FAILED_PRECONDITION,
            f"access mode {mode}: a filesystem that several nodes have while one writes is "
            f"destroyed",
            remedy="use a raw block volume, or ReadWriteOnce, ReadWriteOncePod or ReadOnlyMany",
        )
    if capability.mount.volume_mount_group:
        raise Refused(
            Code.INVALID_ARGUMENT,
            f"volume_mount_group {capability.mount.volume_mount_group!r}: this driver does not "
            f"have VOLUME_MOUNT_GROUP",
            remedy="leave the group to the orchestrator (fsGroupPolicy)",
        )
    options = mount_options(capability.mount.mount_flags)
    return Access(
        mode=mode,
        block=block,
        fstype=capability.mount.fs_type,
        mount_options=tuple(option for option in options if option not in ("ro", "rw")),
        read_only=number in READ_ONLY or "ro" in options,
        many_targets=number in MANY_TARGETS,
        shared_with_nodes=number in SHARED_WRITERS,
    )


def mount_options(flags: Iterable[str]) -> list[str]:
    """Mount flags one by one; some orchestrators put several into one string."""
    return [option for flag in flags for option in flag.split(",") if option]
