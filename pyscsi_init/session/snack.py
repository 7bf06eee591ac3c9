# SPDX-License-Identifier: Apache-2.0
"""SNACK requests as they are sent (RFC 7143 11.16): outside the command order, one for each run."""

from __future__ import annotations

from collections.abc import Iterable

from ..connection import ConnectionMachine, ConnectionState
from ..pdu import RESERVED_TAG, SnackRequest, SnackType
from .task import NO_LUN


def snack(
    connection: ConnectionMachine,
    kind: SnackType,
    *,
    initiator_task_tag: int = RESERVED_TAG,
    target_transfer_tag: int = RESERVED_TAG,
    lun: bytes = NO_LUN,
    beg_run: int = 0,
    run_length: int = 0,
) -> None:
    """Queue a SNACK; ExpStatSN is filled in by the connection. Nothing follows our logout."""
    if connection.state is ConnectionState.S6_IN_LOGOUT:
        return
    connection.send(
        SnackRequest(
            type=kind,
            lun=lun,
            initiator_task_tag=initiator_task_tag,
            target_transfer_tag=target_transfer_tag,
            beg_run=beg_run,
            run_length=run_length,
        )
    )


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, count), one for each run without a gap."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][0] + found[-1][1] == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found
