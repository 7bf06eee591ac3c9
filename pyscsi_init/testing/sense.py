# SPDX-License-Identifier: Apache-2.0
"""Sense data as this target sends it (SPC-4 4.5).

Written here once more, apart from the initiator's parser, so that the two check each other.
"""

from __future__ import annotations


def encode_sense(
    sense_key: int,
    asc: int,
    ascq: int,
    *,
    information: int | None = None,
    descriptor: bool = False,
    deferred: bool = False,
) -> bytes:
    """Sense data in fixed format (18 bytes) or in descriptor format."""
    if descriptor:
        body = b""
        if information is not None:
            body = bytes((0x00, 0x0A, 0x80, 0x00)) + information.to_bytes(8, "big")
        return bytes((0x73 if deferred else 0x72, sense_key, asc, ascq, 0, 0, 0, len(body))) + body
    # The fixed format has four bytes for the information; what is larger cannot be told in it.
    valid = information is not None and information < 2**32
    return (
        bytes(((0x80 if valid else 0) | (0x71 if deferred else 0x70), 0, sense_key))
        + ((information or 0) if valid else 0).to_bytes(4, "big")
        + bytes((10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))
    )
