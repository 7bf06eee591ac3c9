# SPDX-License-Identifier: Apache-2.0
"""Each access mode, for a filesystem and a raw block device, and what is refused."""

from __future__ import annotations

from typing import Any, cast

import pytest

from fusefs.csi.capabilities import read_capability
from fusefs.csi.errors import Code, Refused
from fusefs.csi.wire import csi_pb2 as csi

Mode = csi.VolumeCapability.AccessMode


def capability(mode: int, *, block: bool = False, **mount: Any) -> csi.VolumeCapability:
    made = csi.VolumeCapability(access_mode=csi.VolumeCapability.AccessMode(mode=cast("Any", mode)))
    if block:
        made.block.SetInParent()
    else:
        made.mount.CopyFrom(csi.VolumeCapability.MountVolume(**mount))
    return made


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize(
    ("mode", "read_only", "many", "shared"),
    [
        ("SINGLE_NODE_WRITER", False, False, False),
        ("SINGLE_NODE_READER_ONLY", True, False, False),
        ("MULTI_NODE_READER_ONLY", True, True, False),
        ("MULTI_NODE_SINGLE_WRITER", False, True, True),
        ("MULTI_NODE_MULTI_WRITER", False, True, True),
        ("SINGLE_NODE_SINGLE_WRITER", False, False, False),
        ("SINGLE_NODE_MULTI_WRITER", False, True, False),
    ],
)
def test_modes(mode: str, read_only: bool, many: bool, shared: bool, block: bool) -> None:
    wanted = capability(Mode.Mode.Value(mode), block=block)
    if shared and not block:
        with pytest.raises(Refused, match="is destroyed; use a raw block volume") as caught:
            read_capability(wanted)
        assert caught.value.code is Code.FAILED_PRECONDITION
        return
    access = read_capability(wanted)
    assert (access.mode, access.block) == (mode, block)
    assert (access.read_only, access.many_targets) == (read_only, many)
    assert access.shared_with_nodes == shared


def test_every_mode_is_in_the_table() -> None:
    marks: Any = test_modes.pytestmark  # type: ignore[attr-defined]
    (table,) = [mark.args[1] for mark in marks if len(mark.args[0]) > 1 and "mode" in mark.args[0]]
    assert {row[0] for row in table} == {*Mode.Mode.keys()} - {"UNKNOWN"}


def test_mount_flags() -> None:
    access = read_capability(
        capability(
            Mode.SINGLE_NODE_WRITER, fs_type="xfs", mount_flags=["noatime,ro", "discard", ""]
        )
    )
    assert (access.fstype, access.mount_options) == ("xfs", ("noatime", "discard"))
    assert access.read_only
    assert not read_capability(capability(Mode.SINGLE_NODE_WRITER, mount_flags=["rw"])).read_only


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (csi.VolumeCapability(), "access_type is missing"),
        (capability(0), "access_mode is missing"),
        (capability(99), "access mode 99 is not known"),
        (capability(1, volume_mount_group="7"), "volume_mount_group '7'"),
    ],
)
def test_refused(wanted: csi.VolumeCapability, text: str) -> None:
    with pytest.raises(Refused, match=text) as caught:
        read_capability(wanted)
    assert caught.value.code is Code.INVALID_ARGUMENT
