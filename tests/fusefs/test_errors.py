# SPDX-License-Identifier: Apache-2.0
"""The tree of the volume layer's errors: as drawn, apart from the initiator's, readable."""

from __future__ import annotations

import inspect
import re

import pytest

from fusefs import errors
from fusefs.errors import (
    AlreadyAttached,
    BlankNotFormatted,
    CommandFailed,
    DeviceBusy,
    FilesystemMismatch,
    HasFilesystemErrors,
    MountBusy,
    MountFailed,
    NotBlank,
    ProcessUser,
    UnformattedReadOnly,
    VolumeError,
    WorkerFailed,
    last_lines,
)
from pyscsi_init.errors import IscsiError

CLASSES = [
    one
    for _, one in inspect.getmembers(errors, inspect.isclass)
    if issubclass(one, VolumeError) and one.__module__ == errors.__name__
]


def test_the_drawing_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[│ ]   |[├└]── )*)([A-Z]\w+)", line)
        if match:
            depth = len(match.group(1)) // 4
            path[depth:] = [match.group(2)]
            drawn[match.group(2)] = path[depth - 1] if depth else ""
    assert drawn == {
        one.__name__: "" if one is VolumeError else one.__bases__[0].__name__ for one in CLASSES
    }


def test_no_error_of_ours_is_one_of_the_initiator() -> None:
    assert not any(issubclass(one, IscsiError) for one in CLASSES)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            CommandFailed(
                ["mkfs.xfs", "a b"], exit_status=1, output="x\n\nreason\n", what="trying"
            ),
            ("trying: `mkfs.xfs 'a b'` ended with 1: x | reason",),
        ),
        (
            MountFailed(
                "/dev/loop0", "/mnt", 22, fstype="ext4", detail="EXT4-fs: no", remedy="look"
            ),
            ("mount /dev/loop0 as ext4 on /mnt: Invalid argument (EINVAL)", "EXT4-fs: no; look"),
        ),
        (
            MountBusy("/mnt", users=[ProcessUser(7, "sh", "open file")], mounts=["/mnt/b"]),
            ("mount /mnt is busy: used by sh (pid 7, open file), mounts on it: /mnt/b; end",),
        ),
        (DeviceBusy("/dev/loop0"), ("nothing visible from here",)),
        (NotBlank("/dev/loop0", "gpt partition table", offset=512), ("found gpt", "at byte 512;")),
        (BlankNotFormatted("/dev/loop0"), ("holds no filesystem; mount it with --format-if-bl",)),
        (UnformattedReadOnly("/dev/loop0"), ("is read-only; ",)),
        (
            FilesystemMismatch("/dev/loop0", found="xfs", wanted="ext4"),
            ("holds xfs", "asks for ext4"),
        ),
        (HasFilesystemErrors("/dev/loop0", "ext4", exit_status=4), ("ended with 4", "e2fsck -f")),
        (AlreadyAttached("a", other="b"), ("volume 'a'", "as volume 'b'")),
        (
            WorkerFailed("a", "was killed", pid=9),
            ("worker (pid 9) of volume 'a' failed: was killed;",),
        ),
    ],
)
def test_each_reads_as_a_sentence_with_a_remedy(error: VolumeError, parts: tuple[str, ...]) -> None:
    for part in parts:
        assert part in str(error)


def test_pids_are_each_named_once() -> None:
    users = [ProcessUser(7, "sh", "open file"), ProcessUser(7, "sh", "working directory")]
    assert DeviceBusy("/dev/loop0", users=users).pids == (7,)


def test_progress_bars_do_not_hide_the_reason() -> None:
    assert last_lines("0%\r50%\r100% done\n\nfatal: no\n") == "100% done\nfatal: no"
    assert last_lines("\n".join(str(n) for n in range(20)), 2) == "18\n19"
