# SPDX-License-Identifier: Apache-2.0
"""A logical unit behind a scripted connection, for the parts of a test that are not its subject.

Commands are carried out one at a time and answered honestly, until one comes that the script wants
to answer itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import ProtocolError
from ...login.text import decode_pairs
from ...pdu import (
    RESERVED_TAG,
    DataOut,
    LogoutRequest,
    NopOut,
    Pdu,
    ScsiCommand,
    TaskManagementRequest,
    build_sense_segment,
)
from ..commands import Command
from ..conditions import GOOD, INVALID_COMMAND_OPERATION_CODE, Nexus, Result
from ..execution import check_condition, execute
from ..unit import LogicalUnit

if TYPE_CHECKING:
    from .connection import ScriptedConnection

FIRST_TAG = 0x5EB0


def _never(_: Pdu) -> bool:
    return False


class UnitServer:
    """Answers for one unit on one connection."""

    def __init__(self, peer: ScriptedConnection, unit: LogicalUnit) -> None:
        self._peer = peer
        self._unit = unit
        first = peer.login_requests[0]
        try:
            names = dict(decode_pairs(first.data))
        except ProtocolError:
            names = {}
        self._nexus = Nexus(
            names.get("InitiatorName", ""), first.isid, names.get("TargetName", ""), 1
        )
        unit.attach(self._nexus)

    async def serve(self, until: Callable[[Pdu], bool] = _never) -> Pdu | None:
        """Answer what comes; gives the first PDU for which ``until`` holds, not answered, or None
        after the logout or the end of the connection."""
        peer = self._peer
        while peer.inbox or not peer.ended:
            try:
                pdu = await peer.next(math.inf)
            except AssertionError:
                if peer.ended and not peer.invariants.violations:
                    return None
                raise
            if until(pdu):
                return pdu
            if isinstance(pdu, ScsiCommand):
                await self._command(pdu)
            elif isinstance(pdu, LogoutRequest):
                await peer.send(peer.logged_out(pdu))
                return None
            elif isinstance(pdu, NopOut) and pdu.initiator_task_tag != RESERVED_TAG:
                await peer.send(peer.pong(pdu))
            elif isinstance(pdu, TaskManagementRequest):
                await peer.send(peer.managed(pdu))
        return None

    async def _command(self, pdu: ScsiCommand) -> None:
        data = await self._data_of(pdu) if pdu.write else b""
        command = Command(
            cdb=pdu.cdb,
            nexus=self._nexus,
            data_out=data,
            data_out_offered=pdu.expected_data_transfer_length,
            lun=int.from_bytes(pdu.lun[:2], "big") & 0x3FFF,
            luns=(0,),
        )
        if pdu.read and pdu.write:
            # RFC 7143 11.2.2.4: a script may do that, this server does not.
            result = check_condition(INVALID_COMMAND_OPERATION_CODE)
        else:
            result = execute(self._unit, command)
        await self._answer(pdu, result)

    async def _data_of(self, pdu: ScsiCommand) -> bytes:
        """All data of a write: what comes unasked, then what R2Ts ask for."""
        peer, whole = self._peer, pdu.expected_data_transfer_length
        found = bytearray(pdu.data)
        final = pdu.final
        tag = FIRST_TAG
        while True:
            while not final:
                part = await peer.expect(DataOut)
                found += part.data
                final = part.final
            if len(found) >= whole:
                return bytes(found)
            length = min(peer.parameters.max_burst_length, whole - len(found))
            sn = tag - FIRST_TAG
            await peer.send(peer.r2t(pdu, len(found), length, target_transfer_tag=tag, r2t_sn=sn))
            tag += 1
            final = False

    async def _answer(self, pdu: ScsiCommand, result: Result) -> None:
        peer, whole = self._peer, pdu.expected_data_transfer_length
        fields: dict[str, Any] = {"status": result.status}
        if pdu.read and len(result.data) != whole:
            over = len(result.data) > whole
            fields["residual_overflow" if over else "residual_underflow"] = True
            fields["residual_count"] = abs(len(result.data) - whole)
        data = bytes(result.data[:whole]) if pdu.read else b""
        step = min(
            peer.parameters.initiator_max_recv_data_segment_length,
            peer.parameters.max_burst_length,
        )
        parts = [data[start : start + step] for start in range(0, len(data), step)]
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            status = last and result.status == GOOD
            await peer.send(
                peer.data_in(
                    pdu,
                    number * step,
                    part,
                    data_sn=number,
                    final=last,
                    status_present=status,
                    **fields if status else {},
                )
            )
        if not parts or result.status != GOOD:
            sense = build_sense_segment(result.sense) if result.sense else b""
            await peer.send(peer.response(pdu, data=sense, exp_data_sn=len(parts), **fields))
