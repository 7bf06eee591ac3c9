# SPDX-License-Identifier: Apache-2.0
"""Rules about CmdSN, the command window, ExpStatSN and the Initiator Task Tags.

A PDU of the target counts here from the moment it was sent, which may be before the initiator reads
it. The window only opens and ExpStatSN only grows, so an initiator that has not read it yet is
inside what is allowed.
"""

from __future__ import annotations

from ...pdu import (
    RESERVED_TAG,
    AsyncMessage,
    DataIn,
    DataOut,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    ReadyToTransfer,
    Reject,
    ScsiCommand,
    ScsiResponse,
    SnackRequest,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    TextResponse,
)
from ...serial import serial_add, serial_gt, serial_le, serial_lt
from .recorder import shown
from .wire import WirePdu
from .witness import Complaints, Link, Phase, Witness

REQUESTS = (ScsiCommand, TaskManagementRequest, TextRequest, LogoutRequest, NopOut)
"""PDUs of full feature phase with a CmdSN and a tag of their own."""

_EXP_STAT_SN = slice(28, 32)
_TAG = slice(16, 20)
_ABORT_TASK, _ABORT_TASK_SET, _CLEAR_TASK_SET, _LU_RESET = 1, 2, 4, 5
_TARGET_RESETS = (6, 7)


def same_again(old: WirePdu, new: WirePdu) -> bool:
    """The new one is the old one sent again: only ExpStatSN may differ (RFC 7143 7.2.1)."""
    headers = [bytearray(each.header) for each in (old, new)]
    for header in headers:
        header[_EXP_STAT_SN] = bytes(4)
    return (headers[0], old.ahs, old.data) == (headers[1], new.ahs, new.data)


class CommandNumbers(Witness):
    """CmdSN and the window of one session (RFC 7143 4.2.2.1)."""

    def __init__(self) -> None:
        self.cmd_sn: int | None = None
        self.exp_cmd_sn = 0
        self.max_cmd_sn = 0
        self._sent: dict[int, WirePdu] = {}

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        if isinstance(pdu, LoginRequest):
            if self.cmd_sn is None:
                self.cmd_sn = self.exp_cmd_sn = self.max_cmd_sn = pdu.cmd_sn
            elif pdu.cmd_sn != self.cmd_sn:
                yield f"Login Request with CmdSN {pdu.cmd_sn}, not {self.cmd_sn}"
            return
        if not isinstance(pdu, REQUESTS) or self.cmd_sn is None or link.phase is Phase.LOGIN:
            return
        if pdu.immediate:
            if pdu.cmd_sn != self.cmd_sn:
                yield f"immediate with CmdSN {pdu.cmd_sn}, {self.cmd_sn} is current"
            return
        if pdu.cmd_sn != self.cmd_sn:
            old = self._sent.get(pdu.cmd_sn)
            if old is None or not same_again(old, wire):
                yield f"CmdSN {pdu.cmd_sn}, {self.cmd_sn} comes next"
            return
        if not serial_le(pdu.cmd_sn, self.max_cmd_sn) and not link.doubtful:
            yield f"CmdSN {pdu.cmd_sn} is beyond MaxCmdSN {self.max_cmd_sn}"
        self._sent[pdu.cmd_sn] = wire
        self.cmd_sn = serial_add(pdu.cmd_sn, 1)

    def target(self, link: Link, pdu: Pdu, wire: WirePdu) -> None:
        del link, wire
        if isinstance(pdu, LoginResponse) and pdu.status_class:
            return
        exp_cmd_sn = getattr(pdu, "exp_cmd_sn", 0)
        max_cmd_sn = getattr(pdu, "max_cmd_sn", 0)
        if not serial_le(serial_add(exp_cmd_sn, -1), max_cmd_sn):
            return  # RFC 7143 4.2.2.1: both are ignored
        if serial_gt(max_cmd_sn, self.max_cmd_sn):
            self.max_cmd_sn = max_cmd_sn
        if serial_gt(exp_cmd_sn, self.exp_cmd_sn):
            self.exp_cmd_sn = exp_cmd_sn
            for cmd_sn in [sn for sn in self._sent if serial_lt(sn, exp_cmd_sn)]:
                del self._sent[cmd_sn]


class StatusNumbers(Witness):
    """ExpStatSN of one connection (RFC 7143 4.2.2.2)."""

    def __init__(self) -> None:
        self.exp_stat_sn: int | None = None
        """What comes after the statuses that were sent without a gap; None before the first."""
        self._acknowledged: int | None = None
        self._ahead: set[int] = set()
        self._known_at: dict[tuple[int, int], int] = {}

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        del wire
        number = getattr(pdu, "exp_stat_sn", None)
        if number is None or self.exp_stat_sn is None or link.doubtful:
            return
        if serial_gt(number, self.exp_stat_sn):
            yield f"ExpStatSN {number} acknowledges more than was sent: {self.exp_stat_sn} is next"
            return
        if self._acknowledged is not None and serial_lt(number, self._acknowledged):
            yield f"ExpStatSN {number} goes back from {self._acknowledged}"
        self._acknowledged = number
        if isinstance(pdu, (DataOut, NopOut)):
            # Who answers a tag has read all that came before it.
            asked = self._known_at.get((pdu.initiator_task_tag, pdu.target_transfer_tag))
            if asked is not None and serial_lt(number, asked):
                yield f"ExpStatSN {number}, although {asked} was due when this was asked for"

    def target(self, link: Link, pdu: Pdu, wire: WirePdu) -> None:
        del link, wire
        if isinstance(pdu, LoginResponse):
            if pdu.status_class == 0:
                self._count(pdu.stat_sn)
        elif isinstance(pdu, (ReadyToTransfer, NopIn)) and pdu.target_transfer_tag != RESERVED_TAG:
            if self.exp_stat_sn is not None:
                tags = pdu.initiator_task_tag, pdu.target_transfer_tag
                self._known_at.setdefault(tags, self.exp_stat_sn)
        elif _takes_a_number(pdu):
            self._count(getattr(pdu, "stat_sn", 0))

    def _count(self, stat_sn: int) -> None:
        if self.exp_stat_sn is None:
            self.exp_stat_sn = serial_add(stat_sn, 1)
            return
        if not serial_lt(stat_sn, self.exp_stat_sn):
            self._ahead.add(stat_sn)
        while self.exp_stat_sn in self._ahead:
            self._ahead.remove(self.exp_stat_sn)
            self.exp_stat_sn = serial_add(self.exp_stat_sn, 1)


def _takes_a_number(pdu: Pdu) -> bool:
    if isinstance(pdu, DataIn):
        return pdu.status_present
    if isinstance(pdu, NopIn):
        return pdu.initiator_task_tag != RESERVED_TAG
    kinds = (
        ScsiResponse,
        TaskManagementResponse,
        TextResponse,
        LogoutResponse,
        AsyncMessage,
        Reject,
    )
    return isinstance(pdu, kinds)


class Tags(Witness):
    """The Initiator Task Tags of one session (RFC 7143 11.2.1.8)."""

    def __init__(self) -> None:
        self.outstanding: dict[int, tuple[Pdu, WirePdu]] = {}

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        if isinstance(pdu, (DataOut, SnackRequest)) or link.phase is Phase.LOGIN:
            return
        tag = getattr(pdu, "initiator_task_tag", RESERVED_TAG)
        if tag == RESERVED_TAG:
            if not isinstance(pdu, NopOut):
                yield "the reserved Initiator Task Tag"
            return
        known = self.outstanding.get(tag)
        if isinstance(pdu, TextRequest):
            texts = [other for other, (each, _) in self.outstanding.items()
                     if isinstance(each, TextRequest)]  # fmt: skip
            if texts and texts != [tag]:
                yield "a second Text Request while one is outstanding"
            if known is not None and isinstance(known[0], TextRequest):
                return  # the next part of the sequence
        if known is not None and not same_again(known[1], wire):
            yield f"Initiator Task Tag {tag:08x}h is in use: {shown(known[0])}"
        self.outstanding[tag] = (pdu, wire)

    def target(self, link: Link, pdu: Pdu, wire: WirePdu) -> None:
        del link, wire
        if isinstance(pdu, Reject):
            self.outstanding.pop(int.from_bytes(bytes(pdu.data)[_TAG], "big"), None)
            return
        tag = getattr(pdu, "initiator_task_tag", RESERVED_TAG)
        if isinstance(pdu, TaskManagementResponse):
            self._concluded(tag, pdu.response)
        elif isinstance(pdu, TextResponse):
            if not pdu.final:
                return
        elif isinstance(pdu, DataIn):
            if not pdu.status_present:
                return
        elif not isinstance(pdu, (ScsiResponse, NopIn, LogoutResponse)):
            return
        self.outstanding.pop(tag, None)

    def _concluded(self, tag: int, response: int) -> None:
        """RFC 7143 4.2.3.2: the response concludes the affected tasks too."""
        request = self.outstanding.get(tag, (None, None))[0]
        if not isinstance(request, TaskManagementRequest) or response not in (0, 1):
            return
        if request.function == _ABORT_TASK:
            self.outstanding.pop(request.referenced_task_tag, None)
        whole_unit = request.function in (_ABORT_TASK_SET, _CLEAR_TASK_SET, _LU_RESET)
        for other, (pdu, _) in list(self.outstanding.items()):
            if isinstance(pdu, ScsiCommand) and (
                request.function in _TARGET_RESETS or (whole_unit and pdu.lun == request.lun)
            ):
                del self.outstanding[other]
