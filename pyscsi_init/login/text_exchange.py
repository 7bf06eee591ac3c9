# SPDX-License-Identifier: Apache-2.0
"""A text negotiation in full feature phase, SendTargets above all: many PDUs, one text each way.

RFC 7143 11.10 and 11.11 have two ways to make an answer longer than one PDU: the C bit (the text
is cut in the middle) and F=0 with a Target Transfer Tag (the target has more to say). Targets mix
them, so the data segments are simply joined until a response has F=1, up to a limit in bytes and
in PDUs. Our own text is cut at what the target takes in one PDU.

It does not number PDUs, does not know what SendTargets records mean (discovery/ does), and changes
no parameters: a MaxRecvDataSegmentLength that the target declares is there to be read after the
end (RFC 7143 6.2: negotiations are atomic).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..errors import LocalProtocolError, ProtocolError
from ..pdu import RESERVED_TAG, TextRequest, TextResponse
from .keys import KEYS, check_full_feature_keys
from .text import Pair, TextAssembler, decode_pairs, encode_pairs, split_text

TEXT_LIMIT = 8 * 2**20
"""Most bytes taken in one answer: room for some 50,000 targets."""

MAX_TEXT_RESPONSES = 65536
"""Most PDUs of one answer: ends an exchange in which a target sends nothing, for ever."""


def send_targets(value: str = "All") -> list[Pair]:
    """The text of a SendTargets request: ``All``, a target name, or empty for the session's own."""
    return [("SendTargets", value)]


class TextExchange:
    """One Text Request with everything that follows from it.

    ``requests()`` gives what to send now, ``receive()`` takes the answer, until ``finished``; then
    ``pairs`` is the answer. The session fills in CmdSN and ExpStatSN, and keeps to one exchange at
    a time on a connection. Requests are not immediate: a target exists that counts immediate ones.
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        *,
        initiator_task_tag: int,
        max_data_segment_length: int = 8192,
        limit: int = TEXT_LIMIT,
        lun: bytes = bytes(8),
        immediate: bool = False,
    ) -> None:
        self._initiator_task_tag = initiator_task_tag
        self._lun = lun
        self._immediate = immediate
        self._target_transfer_tag = RESERVED_TAG
        self._parts = deque(split_text(encode_pairs(pairs), max_data_segment_length))
        self._assembler = TextAssembler(limit)
        self._responses = 0
        self._outstanding: TextRequest | None = None
        self._next: TextRequest | None = self._request(self._parts.popleft())
        self._pairs: list[Pair] | None = None

    @property
    def finished(self) -> bool:
        """True once the whole answer is in."""
        return self._pairs is not None

    @property
    def pairs(self) -> list[Pair]:
        """The answer, once finished."""
        if self._pairs is None:
            raise LocalProtocolError("the text exchange is not over")
        return self._pairs

    @property
    def declared_max_recv_data_segment_length(self) -> int | None:
        """The limit that the target declared in its answer, None if it did not."""
        for name, value in self.pairs:
            if name == "MaxRecvDataSegmentLength":
                return KEYS[name].number(value)
        return None

    def requests(self) -> list[TextRequest]:
        """What to send now: one request, or none while an answer is awaited or after the end."""
        if self._next is None:
            return []
        request, self._next = self._next, None
        self._outstanding = request
        return [request]

    def receive(self, response: TextResponse) -> None:
        """Take a Text Response.

        Raises:
            ProtocolError: the response breaks RFC 7143, or the answer goes beyond the limit.
        """
        request, self._outstanding = self._outstanding, None
        if request is None:
            raise ProtocolError("a Text Response came that no request had asked for (RFC 7143 6.2)")
        if response.initiator_task_tag != self._initiator_task_tag:
            raise ProtocolError("the Text Response has another Initiator Task Tag (RFC 7143 11.11)")
        self._responses += 1
        if self._responses > MAX_TEXT_RESPONSES:
            raise ProtocolError(
                f"the answer to a Text Request has more than {self._responses} PDUs"
            )
        final, more = bool(response.final), bool(response.continue_)
        if final and more:
            raise ProtocolError("a Text Response has F and C both set (RFC 7143 11.11.2)")
        if final and not request.final:
            raise ProtocolError("a Text Response has F=1 to a request with F=0 (RFC 7143 11.11.1)")
        if not final:
            if response.target_transfer_tag == RESERVED_TAG:
                raise ProtocolError(
                    "a Text Response has F=0 and no Target Transfer Tag (RFC 7143 11.11.1)"
                )
            # RFC 7143 11.10.4: the next request copies the tag, and the LUN with it.
            self._target_transfer_tag = response.target_transfer_tag
            self._lun = bytes(response.lun)
        # With F=1 the tag should be the reserved one; it means nothing then, so any will do.
        if self._parts:
            if len(response.data) or more:
                raise ProtocolError(
                    "the target answers a text before it has all of it (RFC 7143 6.2)"
                )
            self._next = self._request(self._parts.popleft())
            return
        text = self._assembler.feed(response.data, more=not final)
        if text is None:
            self._next = self._request(b"")
            return
        pairs = decode_pairs(text)
        check_full_feature_keys(pairs)
        self._pairs = pairs

    def _request(self, data: bytes) -> TextRequest:
        more = bool(self._parts)
        return TextRequest(
            immediate=self._immediate,
            final=not more,
            continue_=more,
            lun=self._lun,
            initiator_task_tag=self._initiator_task_tag,
            target_transfer_tag=self._target_transfer_tag,
            data=data,
        )
