# SPDX-License-Identifier: Apache-2.0
"""One negotiation: which keys we offered or declared, which the target did, and what is in force.

RFC 7143 6.2: results rest on exchanged values only, a key is negotiated once in a login phase, an
answer must be a possible result of the offer, and a proposal of the target must be answered. This
object remembers the exchange, so it can refuse a second time, tell an answer from a proposal, and
fall back to the default where an offer was rejected, irrelevant, not understood or not answered.

The truth tables are in keys.py; stages, PDUs and policy are the login machine's. Nothing takes
effect here: the values are read when the login phase is over (RFC 7143 6.2, "atomic operations").
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import LocalProtocolError, ProtocolError
from .keys import KEYS, Key, Result, Sender, Use, answer_for, canonical_value, check_answer
from .text import IRRELEVANT, NOT_UNDERSTOOD, REJECT, RESERVED_ANSWERS, Pair, shorten


class Negotiation:
    """The keys of one login phase.

    ``own`` holds, for every negotiated key, the value we offer or would offer: it is also what a
    proposal of the target is answered from.
    """

    __slots__ = ("_agreed", "_discovery", "_leading", "_own", "_received", "_sent")

    def __init__(
        self, own: Mapping[str, str], *, discovery: bool = False, leading: bool = True
    ) -> None:
        self._own = dict(own)
        self._discovery = discovery
        self._leading = leading
        self._sent: dict[str, str] = {}
        self._received: dict[str, str] = {}
        self._agreed: dict[str, str] = {}

    def offer(self, name: str) -> Pair:
        """The pair that offers our own value of ``name``."""
        return self.send(name, self._own[name])

    def send(self, name: str, value: str) -> Pair:
        """Note that we propose or declare ``name=value``, and give the pair back.

        Raises:
            LocalProtocolError: the key was sent before in this login phase.
        """
        # RFC 7143 6.3: neither side declares or negotiates a parameter twice during login.
        if name in self._sent:
            raise LocalProtocolError(f"{name} was already sent in this login phase")
        self._sent[name] = value
        return name, value

    def receive(self, name: str, value: str) -> Pair | None:
        """Take one pair of the target; the pair to answer with, or None.

        Raises:
            ProtocolError: a second time, a wrong sender, or a value that cannot be.
        """
        row = KEYS.get(name)
        again = name in self._received
        if again and not (row is not None and row.repeatable):
            raise ProtocolError(f"the target sent {name} twice in one login phase (RFC 7143 6.3)")
        if row is None:
            return self._receive_unknown(name, value)
        self._received[name] = value
        if name in self._sent and name not in self._agreed and self._is_reply(row, value):
            self._receive_reply(row, value)
            return None
        if value in RESERVED_ANSWERS:
            raise ProtocolError(
                f"the target proposed {name}={value}, a word reserved for answers (RFC 7143 6.2)"
            )
        if row.sender is Sender.INITIATOR:
            raise ProtocolError(
                f"the target sent {name}, an initiator's key (RFC 7143 {row.clause})"
            )
        if not row.negotiated:
            row.parse(value)
            return None
        return self._answer(row, value)

    def _receive_unknown(self, name: str, value: str) -> Pair | None:
        self._received[name] = value
        if name in self._sent:
            return None  # the answer to a private key of ours
        if value in RESERVED_ANSWERS:
            raise ProtocolError(
                f"the target answered {shorten(name)}, which was never offered (RFC 7143 6.2)"
            )
        # RFC 7143 6.2: "the answer for a key that is not understood MUST be key=NotUnderstood".
        return self.send(name, NOT_UNDERSTOOD)

    @staticmethod
    def _is_reply(row: Key, value: str) -> bool:
        """Whether a pair for a key that we sent answers it, rather than declares the target's."""
        return row.negotiated or value in RESERVED_ANSWERS

    def _receive_reply(self, row: Key, value: str) -> None:
        name, offered = row.name, self._sent[row.name]
        if (
            value == NOT_UNDERSTOOD
            and not row.not_understood_tolerated
            and name != "InitiatorAlias"
        ):
            # RFC 7143 6.2: NotUnderstood on a key of the RFC itself "MUST be considered a protocol
            # error"; only keys that targets of RFC 3720's time cannot know are excepted.
            raise ProtocolError(
                f"the target does not understand {name}, which RFC 7143 {row.clause} requires"
            )
        if not row.negotiated:
            if row.name in ("InitiatorAlias", "X#NodeArchitecture"):
                return  # informational: whatever it thinks of it
            raise ProtocolError(
                f"the target answered {value} to our {name} (RFC 7143 {row.clause})"
            )
        if value in RESERVED_ANSWERS:
            # RFC 7143 6.2: Reject leaves the key "at its current value (or default ...)", and
            # Irrelevant is no failure. Either way our offer is not in force.
            self._agreed[name] = row.default or value
            return
        check_answer(row, offered, value)
        self._agreed[name] = canonical_value(row, value)

    def _answer(self, row: Key, value: str) -> Pair:
        name = row.name
        if row.use is Use.LEADING_ONLY and not self._leading:
            raise ProtocolError(
                f"the target proposed {name} on a connection that is not the leading one "
                f"(RFC 7143 {row.clause})"
            )
        if row.result is Result.OBSOLETE:
            return self.send(name, answer_for(row, value, ""))
        if self._discovery and row.irrelevant_in_discovery:
            row.parse(value)
            return self.send(name, IRRELEVANT)
        own = self._own.get(name, row.default)
        answer = REJECT if own is None else answer_for(row, value, own)
        self._agreed[name] = (row.default or REJECT) if answer == REJECT else answer
        return self.send(name, answer)

    def was_sent(self, name: str) -> bool:
        """Whether the key left us in this login phase, as an offer or as an answer."""
        return name in self._sent

    def sent(self, name: str) -> str | None:
        """The value that we offered, declared or answered."""
        return self._sent.get(name)

    def received(self, name: str) -> str | None:
        """The value that the target sent for the key, as it was written."""
        return self._received.get(name)

    def in_force(self, name: str) -> str:
        """The value that holds for a negotiated key: the result, or the default of RFC 7143.

        An offer without an answer counts only where every answer leads to the same result: No under
        AND, Yes under OR (RFC 7143 6.2.2). Everything else is the default, not our offer.
        """
        agreed = self._agreed.get(name)
        if agreed is not None:
            return agreed
        row = KEYS[name]
        determined = {Result.AND: "No", Result.OR: "Yes"}.get(row.result)
        if determined is not None and self._sent.get(name) == determined:
            return determined
        if row.default is None:
            raise LocalProtocolError(f"{name} has no value in force")
        return row.default

    def number(self, name: str) -> int:
        """:meth:`in_force` as a number."""
        return KEYS[name].number(self.in_force(name))

    def boolean(self, name: str) -> bool:
        """:meth:`in_force` as a boolean."""
        return self.in_force(name) == "Yes"

    def declared_number(self, name: str) -> int | None:
        """The number that the target declared for ``name``, None if it declared none."""
        value = self._received.get(name)
        return None if value is None else KEYS[name].number(value)
