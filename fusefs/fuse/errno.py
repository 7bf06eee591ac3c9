# SPDX-License-Identifier: Apache-2.0
"""Our errors as errno: the one seam where what went wrong below becomes a number for the kernel.

The table is read from the error's own class upwards, so a new subclass gets its parent's number and
anything unknown EIO. Above us stands mostly a loop device, which knows three answers: ENOSPC,
EOPNOTSUPP ("do not ask again") and "an I/O error". So EOPNOTSUPP never stands for passing trouble.
"""

from __future__ import annotations

import errno

from pyscsi_init.errors import (
    DataProtect,
    IscsiError,
    MediumError,
    OutOfRange,
    ReadOnlyDevice,
    ReservationConflict,
    SpaceExhausted,
    Unsupported,
)

ERRNO_OF: dict[type[BaseException], int] = {
    OutOfRange: errno.EIO,  # inside the file but not on the device: it shrank under us
    ReadOnlyDevice: errno.EROFS,
    DataProtect: errno.EROFS,
    SpaceExhausted: errno.ENOSPC,
    MediumError: errno.ENODATA,  # what Linux answers for a medium error on its own disks
    Unsupported: errno.EOPNOTSUPP,
    ReservationConflict: errno.EBADE,  # as Linux: another node holds the reservation
    MemoryError: errno.ENOMEM,
    IscsiError: errno.EIO,
}
"""The nearest class of an error decides. TaskAborted, IdentityMismatch and the rest are EIO."""


def errno_of(error: BaseException) -> int:
    """The errno that the kernel gets for ``error``."""
    for kind in type(error).__mro__:
        number = ERRNO_OF.get(kind)
        if number is not None:
            return number
    return errno.EIO
