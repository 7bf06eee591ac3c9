# SPDX-License-Identifier: Apache-2.0
"""SCSI commands of a session as coroutines, for what is asked now and then."""

from __future__ import annotations

from ..buffers import Buffer
from ..errors import IllegalRequest, UnitAttention
from ..scsi import Status, command_name, encode_lun, parse_report_luns, report_luns, scsi_error
from .execute import ScsiResult, run_command
from .management import SessionManagement

MAX_UNIT_ATTENTIONS = 16
INVALID_OPCODE = 0x20
"""INVALID COMMAND OPERATION CODE (05/20/00)."""

MAX_LUN_LIST = 2**20
"""Bytes of a REPORT LUNS answer: 131,071 LUNs."""


class SessionCommands(SessionManagement):
    """The part of a session that others await; the session is the only one to inherit it."""

    async def execute(
        self,
        lun: int | bytes,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in_length: int = 0,
        seconds: float | None = None,
    ) -> ScsiResult:
        """Send any CDB to a LUN, as it is; the status must be GOOD.

        ``data_out`` is written, up to ``data_in_length`` bytes are read; with both the command
        transfers both ways (RFC 7143 11.2.2.4), which few targets take, and only at error recovery
        level 0. A CDB of more than 16 bytes goes on in an AHS (11.2.2.3). Nobody looks whether CDB
        and lengths fit each other, but targets may: some drop the session where they do not.

        The command is not repeated, neither after a unit attention nor after a lost connection.

        Raises:
            ConfigurationError, TypeError: an argument cannot be used; nothing was sent.
            ScsiError: another status, with what the unit said; its ``result`` has what came.
            OutcomeUnknown: the connection died first; it may have been done or not.
            TaskError, ConnectionLost: no status came for another reason.

        Cancellation: the command is aborted; it may have been done or not.
        """
        result = await run_command(
            self,  # type: ignore[arg-type]
            encode_lun(lun),
            cdb,
            data_out=data_out,
            data_in_length=data_in_length,
            seconds=seconds,
        )
        if result.status not in (Status.GOOD, Status.CONDITION_MET):
            error = scsi_error(result.status, result.sense, command_name(cdb))
            error.result = result
            raise error
        return result

    async def report_luns(self) -> tuple[bytes, ...]:
        """The LUNs of the target, eight bytes each, as it lists them (REPORT LUNS). A target that
        does not know the command has LUN 0 at most, which may be no disk.

        Raises:
            ScsiError: another refusal.
        """
        length = 4096
        while True:
            data = b""
            for attempt in range(MAX_UNIT_ATTENTIONS):
                try:
                    answer = await self.execute(0, report_luns(length), data_in_length=length)
                except UnitAttention:
                    if attempt == MAX_UNIT_ATTENTIONS - 1:
                        raise
                except IllegalRequest as error:
                    if error.asc != INVALID_OPCODE:
                        raise
                    return (bytes(8),)
                else:
                    data = answer.data
                    break
            needed = int.from_bytes(data[:4], "big") + 8
            if needed <= length or length >= MAX_LUN_LIST:
                return parse_report_luns(data)
            length = min(needed, MAX_LUN_LIST)
