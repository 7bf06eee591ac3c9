# SPDX-License-Identifier: Apache-2.0
"""Where one PDU ends and the next begins, in whatever pieces TCP delivers.

Theory of operation. There is one buffer. The socket fills it behind ``end``; frames are cut from
it at ``start`` as views, without copying, as many as are whole. When everything was cut, both
marks return to 0 for free. Else the beginning of one PDU is left over. It is moved to the front
if the rest of that PDU would not fit behind it, which happens at most three times a PDU (for its
header, the header digest and its body), or if little space is left and less has to be moved than
was consumed since the last move. So the bytes moved are bounded by the bytes received.

The buffer starts large enough for a burst of small PDUs and grows at most to one PDU of the
length that was negotiated; a longer one is refused before anything is allocated for it. With
header digests on, no length is believed before its digest was checked.

INVARIANT: identical frames for every segmentation (tests/properties/test_pdu_properties.py).
The module knows opcodes as numbers only.
"""

from __future__ import annotations

import mmap
from struct import Struct

from ..errors import HeaderDigestError, LocalProtocolError, ProtocolError
from .bhs import MAX_AHS_LENGTH, OPCODE_MASK
from .digest import DIGEST_LENGTH, crc32c
from .layout import BHS_LENGTH

INITIAL_CAPACITY = 262144
"""Takes 63 responses with 4 KiB of data in one read of the socket."""

SMALLEST_READ = 4096
"""With less space than this left, a read of the socket is hardly worth its system call."""

_EMPTY = memoryview(b"")
_LENGTHS = Struct(">I")
_LENGTHS_OFFSET = 4
_DIGEST = Struct("<I")


def _memory(length: int) -> mmap.mmap:
    """Zeros that take up memory only where something was received: most sessions are idle."""
    return mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Frame:
    """One PDU, cut out and digest-checked but not decoded.

    All views point into the framer's buffer: they are valid until its next ``receive_buffer()``.
    ``data`` is without padding. ``data_digest_ok`` is True where no data digest is in use.
    """

    __slots__ = ("ahs", "data", "data_digest_ok", "header", "opcode")

    def __init__(
        self,
        opcode: int,
        header: memoryview,
        ahs: memoryview,
        data: memoryview,
        data_digest_ok: bool,
    ) -> None:
        self.opcode = opcode
        self.header = header
        self.ahs = ahs
        self.data = data
        self.data_digest_ok = data_digest_ok

    def __repr__(self) -> str:
        return (
            f"<Frame opcode={self.opcode:#04x} ahs={len(self.ahs)} data={len(self.data)} "
            f"data_digest_ok={self.data_digest_ok}>"
        )


class Framer:
    """Bytes in, frames out.

    Fill what ``receive_buffer()`` gives, say how much with ``bytes_received(n)``, then take
    ``next_frame()`` until it is None. After an error there is no way on: framing is lost.
    """

    def __init__(self, max_data_segment_length: int) -> None:
        self._max_data_segment_length = max_data_segment_length
        self._header_digest = False
        self._data_digest = False
        self.memory = _memory(INITIAL_CAPACITY)
        self.view = memoryview(self.memory)
        self.start = 0
        self.end = 0
        self._needed = BHS_LENGTH
        """Bytes from ``start`` without which nothing new can be said about the pending PDU."""

    @property
    def max_data_segment_length(self) -> int:
        """The longest data segment accepted: MaxRecvDataSegmentLength as we declared it."""
        return self._max_data_segment_length

    @max_data_segment_length.setter
    def max_data_segment_length(self, value: int) -> None:
        self._max_data_segment_length = value
        self._needed = BHS_LENGTH

    @property
    def header_digest(self) -> bool:
        """Whether PDUs from the next frame on carry a header digest."""
        return self._header_digest

    @header_digest.setter
    def header_digest(self, value: bool) -> None:
        self._header_digest = value
        self._needed = BHS_LENGTH

    @property
    def data_digest(self) -> bool:
        """Whether PDUs from the next frame on carry a data digest."""
        return self._data_digest

    @data_digest.setter
    def data_digest(self, value: bool) -> None:
        self._data_digest = value
        self._needed = BHS_LENGTH

    @property
    def capacity(self) -> int:
        """Bytes of memory held."""
        return len(self.memory)

    @property
    def pending(self) -> int:
        """Bytes received that were not given out as a frame yet."""
        return self.end - self.start

    def receive_buffer(self) -> memoryview:
        """Where the socket puts the next bytes; never empty. Ends the life of all frames.

        Raises LocalProtocolError if the buffer is full of whole PDUs that were not taken.
        """
        start, end = self.start, self.end
        if start == end:
            self.start = self.end = 0
            return self.view
        capacity = len(self.memory)
        if (
            start + self._needed > capacity
            or (capacity - end < SMALLEST_READ and end - start <= start)
            or end == capacity
        ):
            if end - start == capacity and self._needed <= capacity:
                raise LocalProtocolError("the receive buffer is full: take next_frame() first")
            self._make_room(self._needed)
        return self.view[self.end :]

    def bytes_received(self, count: int) -> None:
        """The first ``count`` bytes of the last receive_buffer() are filled."""
        if not 0 <= count <= len(self.memory) - self.end:
            raise LocalProtocolError(f"{count} bytes were not asked for")
        self.end += count

    def consumed(self, position: int) -> None:
        """Whole PDUs up to ``position`` were taken from ``memory`` by other means."""
        if position != self.start:
            self.start = position
            self._needed = BHS_LENGTH

    def next_frame(self) -> Frame | None:
        """The next whole PDU, or None until more bytes were received.

        Raises:
            HeaderDigestError: the header digest does not match.
            ProtocolError: the data segment is longer than max_data_segment_length.
        """
        start = self.start
        available = self.end - start
        if available < self._needed:
            return None
        buffer = self.memory
        (lengths,) = _LENGTHS.unpack_from(buffer, start + _LENGTHS_OFFSET)
        header_end = start + BHS_LENGTH + (lengths >> 24) * 4
        data_start = header_end
        if self._header_digest:
            data_start += DIGEST_LENGTH
            if self.end < data_start:
                self._needed = data_start - start
                return None
            (digest,) = _DIGEST.unpack_from(buffer, header_end)
            if crc32c(self.view[start:header_end]) != digest:
                raise HeaderDigestError("header digest does not match (RFC 7143 7.8)")
        length = lengths & 0xFFFFFF
        if length > self._max_data_segment_length:
            raise ProtocolError(
                f"DataSegmentLength {length} is more than the "
                f"{self._max_data_segment_length} bytes that we declared"
            )
        padded_end = data_start + length + (-length & 3)
        frame_end = padded_end
        if length and self._data_digest:
            frame_end += DIGEST_LENGTH
        if self.end < frame_end:
            self._needed = frame_end - start
            return None
        self.start = frame_end
        self._needed = BHS_LENGTH
        view = self.view
        bhs_end = start + BHS_LENGTH
        return Frame(
            buffer[start] & OPCODE_MASK,
            view[start:bhs_end],
            view[bhs_end:header_end] if header_end != bhs_end else _EMPTY,
            view[data_start : data_start + length] if length else _EMPTY,
            # RFC 7143 11.2.3: the digest covers the padding bytes, whatever their value.
            frame_end == padded_end
            or crc32c(view[data_start:padded_end]) == _DIGEST.unpack_from(buffer, padded_end)[0],
        )

    def _largest_pdu(self) -> int:
        return (
            BHS_LENGTH
            + MAX_AHS_LENGTH
            + DIGEST_LENGTH
            + self._max_data_segment_length
            + (-self._max_data_segment_length & 3)
            + DIGEST_LENGTH
        )

    def _make_room(self, needed: int) -> None:
        """Put the pending bytes at the front, of a larger buffer if they shall not fit this one."""
        start, end = self.start, self.end
        pending = end - start
        if needed > len(self.memory):
            # One step to the full size: a peer that sends one large PDU sends more of them.
            grown = _memory(max(needed, self._largest_pdu()))
            grown[:pending] = self.view[start:end]
            # Views handed out keep the old memory alive and unchanged.
            self.memory = grown
            self.view = memoryview(grown)
        else:
            self.view[:pending] = self.view[start:end]
        self.start = 0
        self.end = pending
