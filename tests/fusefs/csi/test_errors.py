# SPDX-License-Identifier: Apache-2.0
"""Which status an error becomes."""

from __future__ import annotations

import errno

import grpc
import pytest

from fusefs import errors as volume
from fusefs.csi import errors
from fusefs.csi.errors import (
    CODES,
    MAX_TEXT,
    Code,
    Refused,
    code_of,
    is_expected,
    missing,
    text_of,
)
from fusefs.volume import provision
from fusefs.volume_errors import PlaceTaken, VolumeInUse
from pyscsi_init import errors as iscsi


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (volume.OperationInProgress("v", operation="x"), Code.ABORTED),
        (volume.NameInUse("v"), Code.ALREADY_EXISTS),
        (volume.NoSuchVolume("v"), Code.NOT_FOUND),
        (volume.InvalidSpec("x", 1, "is wrong"), Code.INVALID_ARGUMENT),
        (volume.AlreadyAttached("v", other="w"), Code.FAILED_PRECONDITION),
        (volume.NotBlank("/dev/loop0", "data"), Code.FAILED_PRECONDITION),
        (volume.MountBusy("/mnt"), Code.FAILED_PRECONDITION),
        (volume.WorkerFailed("v", "hangs"), Code.UNAVAILABLE),
        (volume.Timeout("mkfs", 1), Code.DEADLINE_EXCEEDED),
        (volume.LoopFailed("f", "none"), Code.INTERNAL),
        (PlaceTaken("/mnt", "lies something"), Code.FAILED_PRECONDITION),
        (VolumeInUse("v", ("pod",)), Code.FAILED_PRECONDITION),
        (iscsi.ConfigurationError("x", 1, "is wrong"), Code.INVALID_ARGUMENT),
        (iscsi.LunNotFound("no LUN 7"), Code.NOT_FOUND),
        (iscsi.ConnectError("nobody"), Code.UNAVAILABLE),
        (iscsi.IdentityMismatch("another"), Code.FAILED_PRECONDITION),
        (iscsi.HeldByAnother("another node"), Code.FAILED_PRECONDITION),
        (iscsi.Fenced("taken over"), Code.FAILED_PRECONDITION),
        (iscsi.Unsupported("no reservations"), Code.FAILED_PRECONDITION),
        (provision.NoSuchClaim("c"), Code.NOT_FOUND),
        (provision.ClaimConflict("n", "is larger"), Code.ALREADY_EXISTS),
        (provision.NoSpaceLeft("full"), Code.RESOURCE_EXHAUSTED),
        (provision.SizeNotPossible("too large"), Code.OUT_OF_RANGE),
        (provision.ClaimInUse("logged in"), Code.FAILED_PRECONDITION),
        (missing("volume_id"), Code.INVALID_ARGUMENT),
        (Refused(Code.ABORTED, "x"), Code.ABORTED),
        (ZeroDivisionError(), Code.INTERNAL),
    ],
)
def test_code(error: Exception, code: grpc.StatusCode) -> None:
    assert code_of(error) is code
    assert errors.is_expected(error) is not isinstance(error, ZeroDivisionError)


def test_no_row_hides_another() -> None:
    """The first row that fits counts, so no class stands below one of its own parents."""
    seen: list[type[Exception]] = []
    for _, classes in CODES:
        for each in classes:
            assert not any(issubclass(each, above) for above in seen), each
            seen.append(each)


def test_text() -> None:
    assert text_of(Refused(Code.ABORTED, "one\n  two", remedy="do it")) == "one | two; do it"
    assert text_of(ValueError()) == "ValueError"
    assert len(text_of(ValueError("x" * 10_000))) == MAX_TEXT + len("...")
    letters = text_of(ValueError("\U0001f980" * 10_000)).removesuffix("...")
    assert len(letters) == MAX_TEXT // 12, "as a header has them"
    assert text_of(ValueError("/a/\udcff")) == "/a/\\udcff", "of a file name"


def test_a_full_disk_is_expected() -> None:
    for error in (
        OSError(errno.ENOSPC, "No space left on device", "/claims/one"),
        volume.CallFailed("ftruncate", "/claims/one", errno.EDQUOT),
    ):
        assert code_of(error) is Code.RESOURCE_EXHAUSTED
        assert is_expected(error)
        assert "/claims/one" in text_of(error)
    assert "make room there" in text_of(OSError(errno.ENOSPC, "No space left on device", "/c"))
    assert code_of(OSError(errno.EIO, "no")) is Code.INTERNAL
    assert not is_expected(OSError(errno.EIO, "no"))
