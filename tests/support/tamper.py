# SPDX-License-Identifier: Apache-2.0
"""Damage to single iSCSI PDUs on their way through the proxy: what TCP's checksum let through.

A ``Tamper`` is given to ``TcpProxy(tamper=...)``. It cuts both directions into PDUs and, in full
feature phase, asks its rules about each::

    tamper = Tamper(data_digest=True)
    tamper.corrupt(TO_CLIENT, DATA_IN, every=7)     the data digest of each seventh is wrong
    tamper.withhold(TO_TARGET, SCSI_COMMAND, skip=20)    the 21st never arrives, once

A PDU that is withheld is what a peer sees that discards one for its header digest and finds the
next one (RFC 7143 7.8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TO_TARGET, TO_CLIENT = "to_target", "to_client"

NOP_OUT, SCSI_COMMAND, TASK_MANAGEMENT, LOGIN, DATA_OUT, SNACK = 0x00, 0x01, 0x02, 0x03, 0x05, 0x10
NOP_IN, SCSI_RESPONSE, LOGIN_RESPONSE, DATA_IN, R2T, REJECT = 0x20, 0x21, 0x23, 0x25, 0x31, 0x3F
BHS = 48


@dataclass(slots=True)
class Rule:
    """Which PDUs, and how many of them were met and done something to."""

    direction: str
    opcode: int
    corrupts: bool
    every: int = 0
    skip: int = 0
    times: int | None = 1
    when: Callable[[bytes], bool] | None = None
    met: int = 0
    done: int = 0

    def applies(self, direction: str, pdu: bytes) -> bool:
        """Whether it is this PDU's turn; it is counted."""
        if direction != self.direction or pdu[0] & 0x3F != self.opcode:
            return False
        if self.when is not None and not self.when(pdu):
            return False
        self.met += 1
        if self.times is not None and self.done >= self.times:
            return False
        if self.met <= self.skip or (self.every and (self.met - self.skip) % self.every):
            return False
        self.done += 1
        return True


class Tamper:
    """The rules, for all connections of one proxy."""

    def __init__(self, *, header_digest: bool = False, data_digest: bool = False) -> None:
        """The digests that will be negotiated."""
        self.header_digest = header_digest
        self.data_digest = data_digest
        self.rules: list[Rule] = []
        self.seen: dict[tuple[str, int], int] = {}
        """PDUs of full feature phase by direction and opcode, before anything was done to them."""

    def corrupt(
        self,
        direction: str,
        opcode: int,
        *,
        every: int = 0,
        skip: int = 0,
        when: Callable[[bytes], bool] | None = None,
    ) -> Rule:
        """Spoil the data digest of one PDU, or of each ``every``-th, after the first ``skip``."""
        return self._add(Rule(direction, opcode, True, every, skip, None if every else 1, when))

    def withhold(self, direction: str, opcode: int, *, every: int = 0, skip: int = 0) -> Rule:
        """Let PDUs vanish."""
        return self._add(Rule(direction, opcode, False, every, skip, None if every else 1))

    def _add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        return rule

    def connection(self) -> dict[str, Stream]:
        """The two directions of a new connection."""
        phase = _Phase()
        return {name: Stream(self, name, phase) for name in (TO_TARGET, TO_CLIENT)}


@dataclass(slots=True)
class _Phase:
    full_feature: bool = False


class Stream:
    """One direction of one connection."""

    def __init__(self, tamper: Tamper, name: str, phase: _Phase) -> None:
        self._tamper = tamper
        self._name = name
        self._phase = phase
        self._pending = b""

    def feed(self, data: bytes) -> bytes:
        """Bytes that came; those that go on. What is not a whole PDU yet waits."""
        self._pending += data
        out = []
        while len(self._pending) >= BHS:
            length = self._length()
            if len(self._pending) < length:
                break
            pdu, self._pending = self._pending[:length], self._pending[length:]
            out.append(self._pass(pdu))
        return b"".join(out)

    def _length(self) -> int:
        header = self._pending
        data = int.from_bytes(header[5:8], "big")
        length = BHS + header[4] * 4 + data + (-data & 3)
        if self._phase.full_feature:
            length += 4 * self._tamper.header_digest
            length += 4 * (self._tamper.data_digest and data > 0)
        return length

    def _pass(self, pdu: bytes) -> bytes:
        opcode = pdu[0] & 0x3F
        if not self._phase.full_feature:
            # Final response: transit to full feature phase, Status-Class 0.
            if opcode == LOGIN_RESPONSE and pdu[1] & 0x83 == 0x83 and pdu[36] == 0:
                self._phase.full_feature = True
            return pdu
        tamper = self._tamper
        tamper.seen[self._name, opcode] = tamper.seen.get((self._name, opcode), 0) + 1
        has_data = any(pdu[5:8])
        for rule in tamper.rules:
            if rule.corrupts and not (has_data and tamper.data_digest):
                continue
            if rule.applies(self._name, pdu):
                return pdu[:-1] + bytes((pdu[-1] ^ 1,)) if rule.corrupts else b""
        return pdu
