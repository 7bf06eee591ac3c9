# SPDX-License-Identifier: Apache-2.0
"""The status that ends every SCSI command (SAM-5 5.3.1).

One byte says how the command went; only CHECK CONDITION comes with sense data. Targets also send
reserved codes (10h and 14h are obsolete INTERMEDIATE ones), so nothing here assumes that a byte is
a member. What a status makes the caller do is not decided here.
"""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """SAM-5 table 33."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


SUCCESS = frozenset({Status.GOOD, Status.CONDITION_MET})
"""CONDITION MET is how PRE-FETCH says that the blocks fit into the cache (SBC-3 5.12)."""


def status_name(status: int) -> str:
    """``BUSY`` or, for a code that SAM-5 does not name, ``status 77h``."""
    try:
        return Status(status).name.replace("_", " ")
    except ValueError:
        return f"status {status:02X}h"
