# SPDX-License-Identifier: Apache-2.0
"""One SCSI task: from its command PDU, over its data-out, to its data-in and status.

Owns the DataSN of its Data-In, its end, and what a fault rule does with the command. Data-out is
collected by transfer.py; the numbers of the session (CmdSN, StatSN, window) are written by the
session when it sends; what the command means is execution.py's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..pdu import (
    DataIn,
    DataOut,
    ScsiCommand,
    ScsiResponse,
    build_sense_segment,
)
from .commands import Command, address
from .conditions import GOOD, INVALID_FIELD_IN_CDB, Result, SenseCode
from .execution import admit, check_condition, data_out_length, execute, perform
from .faults import WRITES, CommandFacts, Hold, Rule
from .transfer import Incoming
from .unit import LogicalUnit

if TYPE_CHECKING:
    from .session import Session


class Task:
    """One task of one session."""

    def __init__(self, session: Session, pdu: ScsiCommand, lun: int | None) -> None:
        self.session = session
        self.initiator_task_tag = pdu.initiator_task_tag
        self.cmd_sn = pdu.cmd_sn
        self.cdb = pdu.cdb
        self.lun = lun
        self.lun_bytes = pdu.lun
        self.unit: LogicalUnit | None = None
        if session.target is not None and lun is not None:
            self.unit = session.target.luns.get(lun)
        self.expected = pdu.expected_data_transfer_length
        self.read = pdu.read
        self.write = pdu.write
        self.both_ways = pdu.read and pdu.write
        self._read_expected = pdu.bidirectional_read_expected_data_transfer_length or 0
        """What a command that transfers both ways may read (RFC 7143 11.2.2.4)."""
        self.ended = False
        """No answer shall be sent any more."""
        self.cancelled = False
        """It shall not reach the medium any more."""
        self._started = False
        self._all_here = False
        self._meant = data_out_length(self.unit, pdu.cdb)
        """Bytes of data-out that the CDB means, whatever the initiator has."""
        wanted = min(self.expected, self._meant) if pdu.write else 0
        self._incoming = Incoming(session, pdu, wanted)
        if self.both_ways and session.retained is not None:
            # Two directions with one numbering: nothing of it could be asked for again.
            self._incoming.failure = INVALID_FIELD_IN_CDB
        self._data_sn = 0
        self.allegiant = True
        """A connection is there to answer on."""
        self._cut_off = False
        """A rule closed the connection instead of carrying the command out."""
        self._answer: tuple[Result, int] | None = None
        """What it came to, and the iSCSI response."""

    # Data-out

    def start(self) -> None:
        """The command is the next in order (RFC 7143 4.2.2.1)."""
        self._started = True
        self._advance()
        self._watch()

    def data_out(self, pdu: DataOut, *, damaged: bool = False) -> None:
        """Take one Data-Out PDU, or (``damaged``) ask for its data again."""
        self._incoming.take(pdu, damaged=damaged)
        self._advance()
        self._watch()

    def reassign(self, exp_data_sn: int) -> None:
        """Go on over the session's new connection (RFC 7143 7.2.2): ask for the data-out that is
        missing, or answer, with the Data-In from ``exp_data_sn`` on."""
        self.allegiant = True
        if self._answer is not None:
            self.ended = False
            self._data_sn = 0
            self._respond(self._answer[0], response=self._answer[1], first=exp_data_sn)
        elif self._cut_off:
            self._cut_off = False
            self._ready()
        else:
            self._incoming.ask_anew()
            self._advance()

    def _watch(self) -> None:
        """At error recovery level 1: ask for data-out again that does not come."""
        session, incoming = self.session, self._incoming
        if session.retained is None or self._all_here:
            return
        seen = incoming.progress

        def look() -> None:
            quiet = incoming.progress == seen and not self._all_here and not self.ended
            if quiet and self.allegiant:
                incoming.ask_anew()
                self._advance()
                self._watch()

        session.server.after(session.settings.sequence_timeout, look)

    def fail(self, code: SenseCode) -> None:
        """The data is not what was agreed: end the task with CHECK CONDITION."""
        if not self.ended:
            self._incoming.stop()
            self._respond(check_condition(code, descriptor=self._descriptor_sense))

    @property
    def _descriptor_sense(self) -> bool:
        return self.session.settings.sense_format == "descriptor"

    def _advance(self) -> None:
        """Ask for more data, or carry the command out when all is there."""
        incoming = self._incoming
        if not self._started or self._all_here:
            return
        if incoming.failure is not None:
            self.fail(incoming.failure)
        elif incoming.complete:
            self._all_here = True
            self._ready()
        else:
            incoming.ask()

    # Carrying out

    @property
    def facts(self) -> CommandFacts:
        """What fault rules look at."""
        try:
            lba, blocks = address(self.cdb)
        except IndexError:
            lba, blocks = 0, 0
        return CommandFacts(
            lun=-1 if self.lun is None else self.lun,
            opcode=self.cdb[0],
            lba=lba,
            blocks=blocks,
            initiator_name=self.session.nexus.initiator_name,
            cdb=bytes(self.cdb),
        )

    def _ready(self) -> None:
        faults = self.session.faults
        rule = faults.match(self.facts) if faults.rules else None
        if rule is None:
            self._finish(self._execute())
        else:
            getattr(self, f"_on_{rule.kind}")(rule)

    @property
    def _command(self) -> Command:
        target = self.session.target
        return Command(
            cdb=self.cdb,
            nexus=self.session.nexus,
            data_out=self._incoming.buffer,
            data_out_offered=self.expected if self.write else 0,
            lun=self.lun or 0,
            luns=() if target is None else list(target.luns),
        )

    def _execute(self) -> Result:
        return execute(self.unit, self._command, descriptor=self._descriptor_sense)

    def _finish(self, result: Result) -> None:
        unit = self.unit
        if not result.flush or unit is None:
            self._respond(result)
        elif unit.disk.flush_blocks:
            self.session.server.in_thread(unit.disk.flush, lambda: self._respond(result))
        else:
            unit.disk.flush()
            self._respond(result)

    def _on_hold(self, rule: Hold) -> None:
        if self._begin():
            rule.add(self._land)

    def _on_delay(self, rule: Rule) -> None:
        if self._begin():
            self.session.server.after(rule.arguments["seconds"], self._land)

    def _on_answer_late(self, rule: Rule) -> None:
        result = self._execute()
        self.session.server.after(rule.arguments["seconds"], lambda: self._finish(result))

    def _on_never_answer(self, rule: Rule) -> None:
        if rule.arguments["carry_out"]:
            self._execute()

    def _on_status(self, rule: Rule) -> None:
        self._respond(Result(status=rule.arguments["status"]))

    def _on_check_condition(self, rule: Rule) -> None:
        self._respond(
            check_condition(
                rule.arguments["sense"],
                information=rule.arguments["information"],
                descriptor=self._descriptor_sense,
            )
        )

    def _on_response(self, rule: Rule) -> None:
        self._respond(Result(), response=rule.arguments["response"])

    def _on_reject(self, rule: Rule) -> None:
        self.session.forget(self)
        self.session.reject_header(self.command_header, rule.arguments["reason"])

    def _on_drop(self, rule: Rule) -> None:
        if rule.arguments["carry_out"]:
            self._execute()
        self._cut_off = True
        self.session.drop()

    def _on_short_data(self, rule: Rule) -> None:
        result = self._execute()
        if result.status == GOOD:
            result.data = result.data[: max(0, len(result.data) - rule.arguments["missing"])]
        self._respond(result)

    command_header: bytes = b""
    """The BHS as it arrived, for a Reject."""

    def _begin(self) -> bool:
        """Enter the task set and be on the way to the medium; False when that was refused."""
        refused = admit(self.unit, self._command, descriptor=self._descriptor_sense)
        if refused is not None:
            self._respond(refused)
            return False
        if self.unit is not None:
            self.unit.begin(self)
        return True

    def _land(self) -> None:
        """What was held back happens now, whatever has become of the session meanwhile."""
        result = None
        if not self.cancelled:
            result = perform(self.unit, self._command, descriptor=self._descriptor_sense)
        if self.unit is not None:
            self.unit.end(self)
        if result is not None:
            self._finish(result)

    @property
    def changes_medium(self) -> bool:
        """True for commands that a reset has to wait for."""
        return self.cdb[0] in WRITES

    def abort(self, *, cancel: bool) -> None:
        """Send no answer any more; with ``cancel`` do not reach the medium any more either."""
        self.ended = True
        self._incoming.stop()
        self.session.forget(self)
        if cancel and not self.cancelled:
            self.cancelled = True
            if self.unit is not None:
                self.unit.end(self)

    # Data-in and status

    def _respond(self, result: Result, *, response: int = 0, first: int = 0) -> None:
        if self.ended:
            return
        session = self.session
        if session.retained is not None:
            self._answer = result, response
            if not self.allegiant:
                return
            session.answered[self.initiator_task_tag] = self
        self.ended = True
        # The window opens with the very PDU that ends the task.
        session.forget(self)
        status: dict[str, Any] = {}
        data = result.data
        if self.both_ways:
            data = self._answer_both_ways(status, data)
        elif self.write and not self.read:
            self._residual(status, self._meant)
            data = b""
        else:
            room = self.expected if self.read else 0
            self._residual(status, max(len(data), 0 if self.read else self._meant))
            data = data[:room]
        if len(data) and result.status == GOOD and not response and not self.both_ways:
            status["status"] = result.status
            if self._send_data(data, status, first):
                return
        segment = build_sense_segment(result.sense) if result.sense else b""
        session.send(
            ScsiResponse(
                initiator_task_tag=self.initiator_task_tag,
                response=response,
                exp_data_sn=self._data_sn,
                data=segment,
                **{**status, "status": result.status},
            )
        )

    def _answer_both_ways(
        self, fields: dict[str, Any], data: bytes | memoryview
    ) -> bytes | memoryview:
        """Both residuals, and the Data-In, whose numbers follow those of the R2Ts (RFC 7143
        11.7.5). The status always comes alone."""
        self._residual(fields, self._meant)
        room = self._read_expected
        if len(data) != room:
            way = "overflow" if len(data) > room else "underflow"
            fields[f"bidi_residual_{way}"] = True
            fields["bidi_residual_count"] = abs(len(data) - room)
        self._data_sn = self._incoming.r2ts
        self._send_data(data[:room], {}, 0)
        return data

    def _residual(self, fields: dict[str, Any], actual: int) -> None:
        expected = self.expected if self.read or self.write else 0
        actual = min(actual, expected + 0xFFFFFFFF)  # as much as Residual Count can say
        if actual > expected:
            fields.update(residual_overflow=True, residual_count=actual - expected)
        elif actual < expected:
            fields.update(residual_underflow=True, residual_count=expected - actual)

    def _send_data(self, data: bytes | memoryview, status: dict[str, Any], first: int) -> bool:
        """Send the Data-In PDUs from number ``first`` on; True when the last one carried the
        status."""
        session = self.session
        parameters, settings = session.parameters, session.settings
        segment = min(
            parameters.initiator_max_recv_data_segment_length, settings.max_data_in_segment
        )
        view, burst, offset, total = memoryview(data), parameters.max_burst_length, 0, len(data)
        collapse = settings.phase_collapse and not self.both_ways
        while offset < total:
            end = min(offset + segment, total, (offset // burst + 1) * burst)
            pdu = DataIn(
                initiator_task_tag=self.initiator_task_tag,
                data_sn=self._data_sn,
                buffer_offset=offset,
                final=end == total or end % burst == 0,
                data=view[offset:end],
            )
            if end == total and collapse:
                pdu.status_present = True
                for name, value in status.items():
                    setattr(pdu, name, value)
            elif pdu.final and end < total and session.retained and settings.acknowledge_data:
                pdu.acknowledge = True
                pdu.lun = self.lun_bytes
                pdu.target_transfer_tag = session.new_transfer_tag()
            # The status has to come, whatever was acknowledged (RFC 7143 7.2.2).
            if self._data_sn >= first or pdu.status_present:
                session.send(pdu)
            self._data_sn += 1
            offset = end
        return collapse
