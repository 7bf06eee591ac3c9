# SPDX-License-Identifier: Apache-2.0
"""Errors as errno: every error of the tree has one, and the ones that callers act on are right."""

from __future__ import annotations

import errno

import pytest

from fusefs.fuse.errno import errno_of
from pyscsi_init import errors


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.OutOfRange("x"), errno.EIO),
        (errors.ReadOnlyDevice("x"), errno.EROFS),
        (errors.DataProtect("x", sense_key=7, asc=0x27, ascq=0), errno.EROFS),
        (errors.SpaceExhausted("x", sense_key=7, asc=0x27, ascq=7), errno.ENOSPC),
        (errors.MediumError("x", sense_key=3, asc=0x11, ascq=0), errno.ENODATA),
        (errors.HardwareError("x", sense_key=4, asc=0x44, ascq=0), errno.EIO),
        (errors.Unsupported("x"), errno.EOPNOTSUPP),
        (errors.TaskAborted("x"), errno.EIO),
        (errors.IdentityMismatch("x"), errno.EIO),
        (errors.SessionFailed("x"), errno.EIO),
        (errors.ReservationConflict("x", status=0x18), errno.EBADE),
        (RuntimeError("a bug"), errno.EIO),
        (MemoryError(), errno.ENOMEM),
    ],
)
def test_errno(error: Exception, number: int) -> None:
    assert errno_of(error) == number


def test_only_what_will_never_work_is_eopnotsupp() -> None:
    """A loop device stops asking after EOPNOTSUPP, so a passing trouble must not say it."""

    def below(kind: type[Exception]) -> list[type[Exception]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in below(sub))]

    for kind in below(errors.IscsiError):
        number = errno_of(kind.__new__(kind))
        assert number > 0
        assert number != errno.ENOSYS
        assert (number == errno.EOPNOTSUPP) is issubclass(kind, errors.Unsupported)
