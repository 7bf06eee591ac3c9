# SPDX-License-Identifier: Apache-2.0
"""A byte stream taken apart into PDUs, with nothing refused and nothing lost.

The codec's framer serves an implementation: it checks and drops what a PDU is wrapped in. A witness
wants all of it: the padding bytes, both digests, and whether they are right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from ...errors import ProtocolError
from ...pdu import (
    BHS_LENGTH,
    INITIATOR_PDUS,
    TARGET_PDUS,
    Pdu,
    digest_bytes,
)

OPCODE_MASK = 0x3F
DIGEST_LENGTH = 4


@dataclass(frozen=True, slots=True)
class WirePdu:
    """One PDU as it was on the wire. Digests are empty where none were in use."""

    header: bytes
    ahs: bytes
    header_digest: bytes
    data: bytes = field(repr=False)
    pad: bytes
    data_digest: bytes

    @property
    def raw(self) -> bytes:
        """All bytes."""
        return self.header + self.ahs + self.header_digest + self.data + self.pad + self.data_digest

    @property
    def opcode(self) -> int:
        """The six bits of it."""
        return self.header[0] & OPCODE_MASK

    @property
    def header_digest_ok(self) -> bool:
        """Right, or not in use."""
        return self.header_digest in (b"", digest_bytes(self.header + self.ahs))

    @property
    def data_digest_ok(self) -> bool:
        """Right, or not in use."""
        return self.data_digest in (b"", digest_bytes(self.data + self.pad))

    def decode(self) -> Pdu | None:
        """What the codec reads in it, from whichever side it came; None if it cannot."""
        kind = INITIATOR_PDUS.get(self.opcode) or TARGET_PDUS.get(self.opcode)
        try:
            return kind.decode(self.header, self.ahs, self.data) if kind is not None else None
        except ProtocolError:
            return None


class Splitter:
    """Bytes in, PDUs out. The digests are those of the PDUs from the next one on."""

    def __init__(self) -> None:
        self.header_digest = False
        self.data_digest = False
        self.pending = bytearray()

    def feed(self, data: bytes) -> None:
        """More bytes of the stream."""
        self.pending += data

    def next_pdu(self) -> WirePdu | None:
        """The next whole PDU, or None."""
        pending = self.pending
        if len(pending) < BHS_LENGTH:
            return None
        ahs_end = BHS_LENGTH + 4 * pending[4]
        head_end = ahs_end + DIGEST_LENGTH * self.header_digest
        data_end = head_end + int.from_bytes(pending[5:8], "big")
        pad_end = data_end + (-(data_end - head_end) % 4)
        end = pad_end
        if pad_end > head_end and self.data_digest:
            end += DIGEST_LENGTH
        if len(pending) < end:
            return None
        cuts = (0, BHS_LENGTH, ahs_end, head_end, data_end, pad_end, end)
        parts = [bytes(pending[a:b]) for a, b in pairwise(cuts)]
        del pending[:end]
        return WirePdu(*parts)
