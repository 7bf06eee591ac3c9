# SPDX-License-Identifier: Apache-2.0
"""Text Requests in full feature phase: SendTargets, and the few keys that may still be negotiated.

RFC 7143 11.10, 11.11, 13.12 and Appendix C. A response that does not fit the initiator's
MaxRecvDataSegmentLength goes out in parts, each asked for by an empty request with the tag of the
exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ProtocolError
from ..login.text import (
    NOT_UNDERSTOOD,
    REJECT,
    TextAssembler,
    decode_pairs,
    encode_pairs,
    parse_number,
    split_text,
)
from ..pdu import RESERVED_TAG, RejectReason, TextRequest, TextResponse

if TYPE_CHECKING:
    from .session import Session

TEXT_LIMIT = 65536


class TextExchange:
    """The one text negotiation that a connection may have under way."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reset()

    def _reset(self) -> None:
        self._text = TextAssembler(TEXT_LIMIT)
        self._parts: list[bytes] = []
        self._tag = RESERVED_TAG

    def receive(self, request: TextRequest, header: bytes) -> None:
        """Answer one Text Request."""
        if request.target_transfer_tag == RESERVED_TAG:
            self._reset()
        elif request.target_transfer_tag != self._tag:
            self._session.reject_header(header, RejectReason.INVALID_PDU_FIELD)
            return
        try:
            text = self._text.feed(request.data, more=request.continue_)
            if text is None or not request.final:
                if text is not None:
                    self._parts += self._answers(text)
                self._ask_for_more(request)
                return
            if text:
                self._parts += self._answers(text)
        except ProtocolError:
            self._reset()
            self._session.reject_header(header, RejectReason.PROTOCOL_ERROR)
            return
        self._send_part(request)

    def _ask_for_more(self, request: TextRequest) -> None:
        if self._tag == RESERVED_TAG:
            self._tag = self._session.new_transfer_tag()
        self._session.send(
            TextResponse(
                final=False,
                lun=request.lun,
                initiator_task_tag=request.initiator_task_tag,
                target_transfer_tag=self._tag,
            )
        )

    def _send_part(self, request: TextRequest) -> None:
        part = self._parts.pop(0) if self._parts else b""
        more = bool(self._parts)
        if more and self._tag == RESERVED_TAG:
            self._tag = self._session.new_transfer_tag()
        self._session.send(
            TextResponse(
                final=not more,
                continue_=more,
                lun=request.lun,
                initiator_task_tag=request.initiator_task_tag,
                target_transfer_tag=self._tag if more else RESERVED_TAG,
                data=part,
            )
        )
        if not more:
            self._reset()

    def _answers(self, text: bytes) -> list[bytes]:
        session = self._session
        pairs: list[tuple[str, str]] = []
        for key, value in decode_pairs(text):
            if key == "SendTargets":
                pairs += self._send_targets(value)
            elif key == "MaxRecvDataSegmentLength":
                length = parse_number(value)
                if not 512 <= length < 2**24:
                    raise ProtocolError("MaxRecvDataSegmentLength out of range")
                session.parameters.initiator_max_recv_data_segment_length = length
            elif key not in ("InitiatorAlias",) and value != NOT_UNDERSTOOD:
                pairs.append((key, NOT_UNDERSTOOD))
        room = session.parameters.initiator_max_recv_data_segment_length
        return split_text(encode_pairs(pairs), room) if pairs else []

    def _send_targets(self, value: str) -> list[tuple[str, str]]:
        session, own = self._session, self._session.target
        if value == "All":
            # RFC 7143 Appendix C: "All" is for discovery sessions only
            if own is not None:
                return [("SendTargets", REJECT)]
            wanted = list(session.server.targets.values())
        elif value == "":
            wanted = [] if own is None else [own]
        else:
            found = session.server.targets.get(value)
            wanted = [found] if found is not None and own in (None, found) else []
        pairs = []
        for target in wanted:
            pairs.append(("TargetName", target.name))
            pairs += [
                ("TargetAddress", address)
                for address in session.server.addresses(target, session.connection)
            ]
        return pairs
