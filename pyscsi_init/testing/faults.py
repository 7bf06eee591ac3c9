# SPDX-License-Identifier: Apache-2.0
"""The misbehaviour of a target, asked for by a test: rules about commands and about PDUs.

A *rule* says for which commands (logical unit, operation code, LBA range, how many of them) and
what happens to them instead of the honest thing. Rules are asked in the order in which they were
made; the first that matches and is not used up decides. A rule is given back to the test, which
can ask how many commands it has caught (:attr:`Rule.caught`), wait for one (:meth:`Rule.wait`), or
take the rule away (:meth:`Rule.cancel`). The commands themselves are known here only by what a
matcher needs; carrying them out belongs to tasks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import anyio

from .pdu_faults import PduRule

WRITES = frozenset((0x0A, 0x2A, 0xAA, 0x8A, 0x2E, 0xAE, 0x8E, 0x89, 0x41, 0x93, 0x42, 0x9C, 0x53))
"""WRITE, WRITE AND VERIFY, COMPARE AND WRITE, WRITE SAME, UNMAP, WRITE ATOMIC, XDWRITEREAD."""
READS = frozenset((0x08, 0x28, 0xA8, 0x88))


@dataclass(frozen=True, slots=True)
class CommandFacts:
    """What a rule may look at."""

    lun: int
    opcode: int
    lba: int
    blocks: int
    initiator_name: str
    cdb: bytes


Matcher = Callable[[CommandFacts], bool]


class Rule:
    """One asked-for misbehaviour; counts what it catches."""

    def __init__(
        self,
        kind: str,
        *,
        times: int | None = None,
        lun: int | None = None,
        opcodes: Collection[int] | None = None,
        lba: int | range | None = None,
        when: Matcher | None = None,
        skip: int = 0,
        **arguments: Any,
    ) -> None:
        self.kind = kind
        self.arguments = arguments
        self.caught: list[CommandFacts] = []
        self._times = times
        self._skip = skip
        self._lun = lun
        self._opcodes = opcodes
        self._lba = range(lba, lba + 1) if isinstance(lba, int) else lba
        self._when = when
        self._news = anyio.Event()

    def matches(self, facts: CommandFacts) -> bool:
        """True when this command falls under the rule; it is then counted."""
        if self._times is not None and len(self.caught) >= self._times:
            return False
        if self._lun is not None and facts.lun != self._lun:
            return False
        if self._opcodes is not None and facts.opcode not in self._opcodes:
            return False
        if self._lba is not None and not (
            facts.lba < self._lba.stop and facts.lba + max(facts.blocks, 1) > self._lba.start
        ):
            return False
        if self._when is not None and not self._when(facts):
            return False
        if self._skip:
            self._skip -= 1
            return False
        self.caught.append(facts)
        self._news.set()
        self._news = anyio.Event()
        return True

    def cancel(self) -> None:
        """Catch nothing more."""
        self._times = len(self.caught)

    async def wait(self, count: int = 1) -> None:
        """Return when ``count`` commands have been caught."""
        while len(self.caught) < count:
            await self._news.wait()


class Hold(Rule):
    """Commands that are kept from being carried out until :meth:`release`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("hold", **arguments)
        self._waiting: list[Callable[[], None]] = []

    def add(self, carry_out: Callable[[], None]) -> None:
        """Keep one command; the target calls this."""
        self._waiting.append(carry_out)

    @property
    def held(self) -> int:
        """How many commands are being held now."""
        return len(self._waiting)

    def release(self, count: int | None = None, *, keep: bool = False) -> None:
        """Carry out what is held (all, or the ``count`` oldest), and hold nothing more.

        With ``keep`` later commands are held still.
        """
        if not keep:
            self.cancel()
        count = len(self._waiting) if count is None else count
        ready, self._waiting = self._waiting[:count], self._waiting[count:]
        for carry_out in ready:
            carry_out()


class Faults:
    """All that one target does wrong. An untouched instance is an honest target."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._be_honest()

    def _be_honest(self) -> None:
        self.silent = False
        """Read everything and send nothing more: a port that has died behind its switch."""
        self.refuse_logins: list[tuple[int, int]] = []
        """Status-Class and Status-Detail for the next logins, one entry each."""
        self.on_send: Callable[[Any, Any], Iterable[Any] | None] | None = None
        """Called with (session, PDU) before each PDU of full feature phase is sent. What it returns
        is sent instead; None sends the PDU itself."""
        self.on_receive: Callable[[Any, Any], bool | None] | None = None
        """Called with (session, PDU) for each PDU of full feature phase; True keeps the target from
        acting on it."""
        self.drop_after_received: int | None = None
        """Close a connection once it has received so many PDUs in full feature phase."""
        self.drop_after_sent: int | None = None
        """The same for PDUs sent."""
        self.corrupt_header_digests = 0
        """Spoil the header digest of the next so many PDUs that carry one."""
        self.corrupt_data_digests = 0
        self.ignore_nop_out = False
        self.ignore_task_management = 0
        """Leave the next so many task management requests unanswered."""
        self.ignore_logout = False
        self.pdu_rules: list[PduRule] = []

    def add(self, rule: Rule) -> Rule:
        """Append a rule."""
        self.rules.append(rule)
        return rule

    def withhold(self, opcode: int, *, sent: bool = True, **matching: Any) -> PduRule:
        """Let PDUs that the target sends (or receives, with ``sent`` False) vanish; see
        :class:`PduRule`."""
        return self._add_pdu_rule(PduRule(opcode, damages=False, sent=sent, **matching))

    def damage(self, opcode: int, *, sent: bool = True, **matching: Any) -> PduRule:
        """Spoil the data digest of PDUs that the target sends, or take it for spoilt in those that
        it receives."""
        return self._add_pdu_rule(PduRule(opcode, damages=True, sent=sent, **matching))

    def _add_pdu_rule(self, rule: PduRule) -> PduRule:
        self.pdu_rules.append(rule)
        return rule

    def pdu_rule(self, pdu: Any, *, sent: bool) -> PduRule | None:
        """The rule for this PDU, if there is one."""
        for rule in self.pdu_rules:
            if rule.matches(pdu, sent=sent):
                return rule
        return None

    def match(self, facts: CommandFacts) -> Rule | None:
        """The rule for this command, if there is one."""
        for rule in self.rules:
            if rule.matches(facts):
                return rule
        return None

    def clear(self) -> None:
        """Become honest again; what is held stays held until it is released."""
        for rule in self.rules:
            rule.cancel()
        self.rules.clear()
        self._be_honest()

    def hold_writes(self, **matching: Any) -> Hold:
        """Keep writes from landing until the test releases them, even if their session is gone."""
        matching.setdefault("opcodes", WRITES)
        return self.hold(**matching)

    def hold(self, **matching: Any) -> Hold:
        """Keep commands from being carried out until the test releases them."""
        hold = Hold(**matching)
        self.add(hold)
        return hold

    def delay_writes(self, seconds: float, **matching: Any) -> Rule:
        """Let writes land ``seconds`` later."""
        matching.setdefault("opcodes", WRITES)
        return self.delay(seconds, **matching)

    def delay(self, seconds: float, **matching: Any) -> Rule:
        """Carry commands out ``seconds`` later."""
        return self.add(Rule("delay", seconds=seconds, **matching))

    def answer_late(self, seconds: float, **matching: Any) -> Rule:
        """Carry commands out at once, and answer ``seconds`` later."""
        return self.add(Rule("answer_late", seconds=seconds, **matching))

    def never_answer(self, *, carry_out: bool = False, **matching: Any) -> Rule:
        """Leave commands without an answer, done or not."""
        return self.add(Rule("never_answer", carry_out=carry_out, **matching))

    def status(self, status: int, *, times: int = 1, **matching: Any) -> Rule:
        """End commands with a status such as BUSY (08h) or TASK SET FULL (28h), not done."""
        return self.add(Rule("status", status=status, times=times, **matching))

    def check_condition(
        self,
        sense_key: int,
        asc: int,
        ascq: int,
        *,
        times: int = 1,
        information: int | None = None,
        **matching: Any,
    ) -> Rule:
        """End commands with CHECK CONDITION and this sense, not done."""
        return self.add(
            Rule(
                "check_condition",
                sense=(sense_key, asc, ascq),
                information=information,
                times=times,
                **matching,
            )
        )

    def response(self, response: int, *, times: int = 1, **matching: Any) -> Rule:
        """End commands with a SCSI Response whose Response is not 00h."""
        return self.add(Rule("response", response=response, times=times, **matching))

    def reject(self, reason: int, *, times: int = 1, **matching: Any) -> Rule:
        """Answer command PDUs with Reject; their CmdSN counts as received."""
        return self.add(Rule("reject", reason=reason, times=times, **matching))

    def drop(self, *, carry_out: bool = False, times: int = 1, **matching: Any) -> Rule:
        """Close the connection instead of answering, with the command done or not."""
        return self.add(Rule("drop", carry_out=carry_out, times=times, **matching))

    def short_data(self, missing: int, *, times: int = 1, **matching: Any) -> Rule:
        """Answer reads with the last ``missing`` bytes left out and a residual underflow."""
        return self.add(Rule("short_data", missing=missing, times=times, **matching))
