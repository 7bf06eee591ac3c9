# SPDX-License-Identifier: Apache-2.0
"""Two nodes with one LUN of the Python target, and what they do to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

import pyscsi_init
from pyscsi_init import LogicalUnit
from pyscsi_init.scsi import ReservationType
from pyscsi_init.testing import RamDisk, Target, TargetServer
from tests.support.python_target import MEBI, PATIENCE, WAIT, make_target, url_of

BLOCK, FAR = 512, 1 << 20
A, B = 0xA, 0xB
A_NAME, B_NAME = "iqn.2026-11.example.host:a", "iqn.2026-11.example.host:b"
A_ISID, B_ISID = bytes.fromhex("800000000a01"), bytes.fromhex("800000000b01")
WE = ReservationType.WRITE_EXCLUSIVE
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
WE_AR = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
EA = ReservationType.EXCLUSIVE_ACCESS
OUT, IN = 0x5F, 0x5E
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE = range(8)
RESET = 5


@asynccontextmanager
async def nodes(
    target: Target | None = None, **kw: Any
) -> AsyncIterator[tuple[Target, LogicalUnit, LogicalUnit]]:
    """Two nodes with one LUN."""
    target = target or make_target(RamDisk(4 * MEBI))
    with anyio.fail_after(6 * PATIENCE):
        async with TargetServer([target]).running() as portal:
            url = url_of(portal.address)
            a_node: dict[str, Any] = {"initiator_name": A_NAME, "isid": A_ISID}
            b_node: dict[str, Any] = {"initiator_name": B_NAME, "isid": B_ISID}
            async with (
                pyscsi_init.open_lun(url, settings=WAIT, **a_node, **kw) as a,
                pyscsi_init.open_lun(url, settings=WAIT, **b_node) as b,
            ):
                yield target, a, b


def lose(target: Target, action: int, *, done: bool, opcode: int = OUT) -> Any:
    """The connection dies under the next command with this service action."""
    return target.faults.drop(
        carry_out=done, opcodes={opcode}, when=lambda facts: facts.cdb[1] & 0x1F == action
    )


async def keys(lun: LogicalUnit) -> set[int]:
    return set((await lun.reservations.read_keys()).keys)


async def holder(lun: LogicalUnit) -> tuple[int, int] | None:
    held = (await lun.reservations.read_reservation()).reservation
    return None if held is None else (held.key, held.reservation_type)
