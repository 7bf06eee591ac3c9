# SPDX-License-Identifier: Apache-2.0
"""What a volume may be that stands in a pod itself: its author may make no PersistentVolumes, so he
is given less than those can have."""

from __future__ import annotations

from dataclasses import replace

from fusefs.csi.capabilities import Access
from fusefs.csi.errors import Code, Refused
from fusefs.spec import FILESYSTEMS, VolumeSpec

OPTIONS = ("nosuid", "nodev")
"""The author of a pod chooses whose disk it is, so nothing on it makes anybody more than he is."""


def confine(spec: VolumeSpec, access: Access) -> VolumeSpec:
    """The volume with the mount options that every inline volume has.

    Raises:
        Refused: it wants what an inline volume cannot be, or may not.
    """
    if access.block:
        raise _refused(spec, "an inline volume is a filesystem", "use a PersistentVolume")
    if spec.take_over:
        raise _refused(
            spec,
            "the author of a pod takes no LUN from another node (takeOver)",
            "use a PersistentVolume",
        )
    if spec.fstype and spec.fstype not in FILESYSTEMS:
        raise _refused(
            spec,
            f"fsType {spec.fstype!r} is none of an inline volume",
            f"one of {', '.join(FILESYSTEMS)}, or use a PersistentVolume",
        )
    return replace(spec, mount_options=(*spec.mount_options, *OPTIONS))


def _refused(spec: VolumeSpec, reason: str, remedy: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, f"volume {spec.name!r}: {reason}", remedy=remedy)
