# SPDX-License-Identifier: Apache-2.0
"""The mount table's text."""

from __future__ import annotations

import pytest

from fusefs.host import mountinfo

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 7:3 / /mnt/with\\040space\\011tab\\134back rw,nosuid - xfs /dev/loop3 rw,attr2
31 22 0:55 /sub /mnt/over ro master:1 propagate_from:2 - fuse.pyscsi-init a\\043b rw,user_id=0
32 22 0:56 / /mnt/over rw unbindable - tmpfs none rw
33 22 0:57 / /mnt/nosource rw -  tmpfs  rw
"""


def test_fields() -> None:
    root, space, over, top, _ = mountinfo.parse(TABLE)
    assert (root.mount_id, root.parent_id, root.major, root.minor) == (22, 1, 8, 1)
    assert root.peer_group == 1
    assert not root.read_only
    assert space.mountpoint == "/mnt/with space\ttab\\back"
    assert space.options == ("rw", "nosuid")
    assert space.super_options == ("rw", "attr2")
    assert over.root == "/sub"
    assert over.source == "a#b"
    assert over.fstype == "fuse.pyscsi-init"
    assert over.master_group == 1
    assert over.read_only
    assert top.unbindable


def test_the_uppermost_mount_is_found() -> None:
    table = mountinfo.parse(TABLE)
    found = mountinfo.find("/mnt/over/", table)
    assert found is not None
    assert found.mount_id == 32
    assert mountinfo.find("/mnt", table) is None


@pytest.mark.parametrize(
    ("escaped", "plain"), [("a\\040b", "a b"), ("\\134040", "\\040"), ("plain", "plain")]
)
def test_unescape(escaped: str, plain: str) -> None:
    assert mountinfo.unescape(escaped) == plain


def test_our_own_table_can_be_read() -> None:
    assert any(entry.mountpoint == "/" for entry in mountinfo.read())
    assert mountinfo.find("/") is not None
