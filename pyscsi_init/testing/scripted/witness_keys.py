# SPDX-License-Identifier: Apache-2.0
"""Rules about text: one Login Request at a time with the same identity, and no key twice.

It also finds out what was negotiated, and when full feature phase begins.
"""

from __future__ import annotations

import contextlib
from collections import Counter

from ...errors import ProtocolError
from ...login.text import Pair, decode_pairs
from ...pdu import LoginRequest, LoginResponse, Pdu, Stage, TextRequest, TextResponse
from .negotiated import negotiated
from .wire import WirePdu
from .witness import Complaints, Link, Phase, Witness


class Keys(Witness):
    """The texts of one connection."""

    def __init__(self) -> None:
        self._first: LoginRequest | None = None
        self._waiting = False
        self._text = bytearray()
        self._target_text = bytearray()
        self._said: Counter[str] = Counter()

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        del wire
        if isinstance(pdu, LoginRequest):
            if link.phase is not Phase.LOGIN:
                return
            yield from self._identity(pdu)
        elif isinstance(pdu, TextRequest):
            if pdu.target_transfer_tag == 0xFFFFFFFF and not self._text:
                self._said.clear()  # a new sequence
                self._target_text.clear()
                link.target_pairs.clear()
        else:
            return
        self._text += pdu.data
        if pdu.continue_:
            return
        try:
            pairs = decode_pairs(bytes(self._text))
        except ProtocolError as error:
            yield f"text that cannot be read: {error}"
            pairs = []
        self._text.clear()
        for key, _ in pairs:
            self._said[key] += 1
            if self._said[key] == 2:
                yield f"{key} is sent twice in one negotiation"
        link.initiator_pairs += pairs

    def _identity(self, pdu: LoginRequest) -> Complaints:
        first = self._first
        if self._waiting:
            yield "a second Login Request before the first was answered"
        self._waiting = True
        if first is None:
            self._first = pdu
            return
        for name in ("initiator_task_tag", "isid", "tsih", "cid", "version_max", "version_min"):
            if getattr(pdu, name) != getattr(first, name):
                yield f"{name} changed within the login phase"

    def target(self, link: Link, pdu: Pdu, wire: WirePdu) -> None:
        del wire
        if isinstance(pdu, TextResponse):
            self._heard(link, pdu.data, pdu.continue_)
            if pdu.final:  # RFC 7143 6.2: nothing holds before the end
                self._declared_anew(link)
        if not isinstance(pdu, LoginResponse) or pdu.status_class:
            return
        self._waiting = False
        self._heard(link, pdu.data, pdu.continue_)
        final = pdu.transit and pdu.next_stage == Stage.FULL_FEATURE_PHASE
        if final and link.phase is Phase.LOGIN:
            link.phase = Phase.FULL_FEATURE
            link.parameters = negotiated(link.initiator_pairs, link.target_pairs)
            link.initiator_pairs, link.target_pairs = [], []
            self._said.clear()

    def _heard(self, link: Link, data: object, more: bool) -> None:
        self._target_text += bytes(data)  # type: ignore[call-overload]
        if more:
            return
        pairs: list[Pair] = []
        with contextlib.suppress(ProtocolError):  # a target that lies
            pairs = decode_pairs(bytes(self._target_text))
        self._target_text.clear()
        link.target_pairs += pairs

    @staticmethod
    def _declared_anew(link: Link) -> None:
        """RFC 7143 13.12: this key may also be declared in full feature phase."""
        for key, value in link.target_pairs:
            if key == "MaxRecvDataSegmentLength" and value.isdecimal():
                link.parameters.target_max_recv_data_segment_length = int(value)
        link.target_pairs.clear()
