# SPDX-License-Identifier: Apache-2.0
"""Which status an error becomes."""

from __future__ import annotations

import grpc
import pytest

from fusefs import errors as volume
from fusefs.csi import errors
from fusefs.csi.errors import CODES, MAX_TEXT, Code, Refused, code_of, missing, text_of
from fusefs.volume import provision
from fusefs.volume_errors import VolumeInUse
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
    assert len(text_of(ValueError("x" * 10_000))) == MAX_TEXT
