# SPDX-License-Identifier: Apache-2.0
"""CRC32C digests (RFC 7143 13.1, Appendix A.4).

Owns the order of the bytes on the wire, which is the reverse of every other number in a PDU. The
arithmetic is a C wheel's. Where a digest stands, and over what, is framer.py's and the
serializer's knowledge.
"""

from __future__ import annotations

from crc32c import crc32c as _crc32c

from .layout import BytesLike

DIGEST_LENGTH = 4


def crc32c(*buffers: BytesLike) -> int:
    """The CRC32C of the buffers as if they were one."""
    value = 0
    for buffer in buffers:
        value = _crc32c(buffer, value)
    return value


def digest_bytes(*buffers: BytesLike) -> bytes:
    """The digest as it is sent: 32 zero bytes give AA 36 91 8A (RFC 7143 A.4)."""
    return crc32c(*buffers).to_bytes(DIGEST_LENGTH, "little")
