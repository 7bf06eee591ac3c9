# SPDX-License-Identifier: Apache-2.0
"""Error recovery level 1: whatever the wire loses or damages, the outcome is that of a whole one.

A target keeps all that it sent and answers SNACKs; what reaches the initiator is drawn. In the end
every command has ended once, with its data, nothing was acknowledged that had not arrived, and the
fast path is on again.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyscsi_init.pdu import DataIn, NopIn, NopOut, Pdu, ScsiCommand, SnackRequest, SnackType
from pyscsi_init.serial import serial_le, serial_lt
from tests.conformance.levels import RESERVED, Command, Played

SIZES = (512, 2048, 4096)


class Wire:
    """The target's side: what it has sent, and what of it arrives."""

    def __init__(self, draw: Any, digest: bool) -> None:
        self.draw = draw
        self.digest = digest
        self.played = Played(1, DataDigest="CRC32C" if digest else "None")
        self.statuses: dict[int, Pdu] = {}
        self.data: dict[tuple[int, int], DataIn] = {}
        self.arrived: set[int] = set()
        """StatSN of what reached the initiator undamaged."""
        self.first = self.played.stat_sn
        self.queue: deque[Pdu] = deque()
        self.losses: Counter[int] = Counter()

    def keep(self, pdu: Any) -> None:
        """Send a PDU, and keep it."""
        if isinstance(pdu, DataIn):
            self.data[pdu.initiator_task_tag, pdu.data_sn] = pdu
        if not isinstance(pdu, DataIn) or pdu.status_present:
            self.statuses[pdu.stat_sn] = pdu
        self.queue.append(pdu)

    def answer(self, command: ScsiCommand, data: bytes) -> None:
        """Data-In and status, in the ways that there are."""
        size = self.draw(st.sampled_from((512, 1024, 4096)))
        collapse = self.draw(st.booleans())
        pieces = self.played.pieces(command, data, size, status=collapse) if data else []
        for pdu in pieces:
            if pdu.final and self.draw(st.booleans()):
                pdu.acknowledge, pdu.target_transfer_tag = True, 0x55
            self.keep(pdu)
        if not data or not collapse:
            self.keep(self.played.response(command, exp_data_sn=len(pieces)))

    def deliver(self) -> None:
        """What is on the wire arrives, or not."""
        while self.queue:
            pdu: Any = self.queue.popleft()
            fate = self.draw(st.sampled_from(("arrives",) * 5 + ("lost", "damaged")))
            if self.losses[id(pdu)] >= 3 or isinstance(pdu, NopIn):
                # What never arrives, and a ping without an answer, mean a dead connection.
                fate = "arrives"
            if fate == "damaged" and not (self.digest and len(pdu.data)):
                fate = "lost"
            if fate == "lost":
                self.losses[id(pdu)] += 1
                continue
            if fate == "damaged":
                self.losses[id(pdu)] += 1
                self.played.send(pdu, bad=True)
            else:
                if not isinstance(pdu, DataIn) or pdu.status_present:
                    self.arrived.add(pdu.stat_sn)
                self.played.send(pdu)
            assert not self.played.lost
            self.hear()

    def hear(self) -> None:
        """Answer what the initiator sends."""
        for pdu in self.played.take():
            exp_stat_sn = pdu.exp_stat_sn
            for stat_sn in self.statuses:
                if serial_lt(stat_sn, exp_stat_sn):
                    assert stat_sn in self.arrived, "acknowledged, and never came"
            if isinstance(pdu, SnackRequest):
                self._snack(pdu)
            elif isinstance(pdu, NopOut) and pdu.initiator_task_tag != RESERVED:
                self.keep(self.played.nop_in(initiator_task_tag=pdu.initiator_task_tag))

    def _snack(self, pdu: SnackRequest) -> None:
        if pdu.type == SnackType.STATUS:
            for index in range(pdu.run_length):
                stat_sn = (pdu.beg_run + index) & 0xFFFFFFFF
                assert serial_le(pdu.exp_stat_sn, stat_sn)
                if stat_sn in self.statuses:
                    self.queue.append(self.statuses[stat_sn])
        elif pdu.type == SnackType.DATA_R2T:
            tag = pdu.initiator_task_tag
            last = max(number for known, number in self.data if known == tag)
            stop = pdu.beg_run + pdu.run_length if pdu.run_length else last + 1
            assert pdu.beg_run <= last
            assert stop <= last + 1
            self.queue.extend(self.data[tag, number] for number in range(pdu.beg_run, stop))


@given(st.data(), st.booleans())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_the_outcome_is_that_of_a_whole_wire(data: st.DataObject, digest: bool) -> None:
    wire = Wire(data.draw, digest)
    played = wire.played
    commands: list[tuple[Command, bytes]] = []
    for number in range(data.draw(st.integers(1, 6))):
        size = data.draw(st.sampled_from(SIZES))
        content = bytes((number + 1,)) * size
        if data.draw(st.booleans()):
            command = Command(size)
            pdu = played.submit(command)
            wire.answer(pdu, content)
            commands.append((command, content))
        else:
            command = Command(content)
            wire.answer(played.submit(command), b"")
            commands.append((command, content))
        if data.draw(st.booleans()):
            wire.deliver()
    for _ in range(60):
        wire.deliver()
        if all(command.times for command, _ in commands):
            break
        played.pass_time(1.0)
        assert not played.lost
        wire.hear()
    assert all(command.good for command, _ in commands)
    assert all(command.buffer == content for command, content in commands)
    connection, repair = played.machine.connection, played.machine.repair
    assert connection is not None
    assert repair is not None
    for _ in range(60):
        if not repair.busy:
            break
        played.pass_time(1.0)
        wire.hear()
        wire.deliver()
    assert not repair.busy
    assert digest or played.machine.fast.connection is connection
