# SPDX-License-Identifier: Apache-2.0
"""What of a connection may be written down: everything but what proves who one is.

In the login phase the value of CHAP_R becomes asterisks, in both directions (RFC 7143 12.1.3): with
the challenge beside it, it is all that a guesser of secrets needs. The challenge alone is worth
nothing, and says much about a login that fails, so it stays. The same for what other authentication
methods compute from a secret. Lengths stay as they are.

The bytes come in whatever pieces the socket takes and gives; each piece is returned at once. A key
that the C bit splits over PDUs (RFC 7143 6.1) is found as well. What cannot be understood, as from
a target that speaks no iSCSI, is treated as text as long as the login phase lasts.
"""

from __future__ import annotations

MASKED_KEYS = frozenset(
    (
        b"CHAP_R",
        # RFC 7143 12.1.1 and 12.1.2; also what is like it in SPKM, which RFC 3720 had.
        b"SRP_M",
        b"SRP_HM",
        b"KRB_AP_REQ",
        b"KRB_AP_REP",
        b"SPKM_REQ",
        b"SPKM_REP_TI",
        b"SPKM_REP_IT",
    )
)
_LONGEST_KEY = 63
_HEADER = 48
_LOGIN_RESPONSE = 0x23
_ASTERISK, _EQUALS, _NUL = b"*"[0], b"="[0], 0


class _Text:
    """Where in the text of one side we are."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A new text begins."""
        self._key = bytearray()
        self._in_value = self._masking = False

    def mask(self, data: bytearray, start: int, end: int) -> None:
        """Go over the next part of the text, in place."""
        for position in range(start, end):
            byte = data[position]
            if byte == _NUL:
                self.forget()
            elif self._in_value:
                if self._masking:
                    data[position] = _ASTERISK
            elif byte == _EQUALS:
                self._in_value = True
                self._masking = bytes(self._key).upper() in MASKED_KEYS
            elif len(self._key) <= _LONGEST_KEY:
                self._key.append(byte)


class _Side:
    """One direction: headers, and what is left of the PDU that is under way."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._ahs = self._data = self._padding = 0
        self._text = _Text()
        self._continued = False
        self.over = False
        """The login response that ends the phase has been seen whole."""

    def feed(self, piece: bytes) -> bytes:
        """The next piece, masked."""
        out = bytearray(piece)
        at, end = 0, len(out)
        while at < end and not self.over:
            count = end - at
            if len(self._header) < _HEADER:
                count = min(count, _HEADER - len(self._header))
                self._header += out[at : at + count]
                if len(self._header) == _HEADER:
                    self._begin()
            elif self._ahs:
                count = min(count, self._ahs)
                self._ahs -= count
            elif self._data:
                count = min(count, self._data)
                self._text.mask(out, at, at + count)
                self._data -= count
            else:
                count = min(count, self._padding)
                self._padding -= count
            at += count
            if len(self._header) == _HEADER and not (self._ahs or self._data or self._padding):
                self._finish()
        return bytes(out)

    def _begin(self) -> None:
        header = self._header
        self._ahs = header[4] * 4
        self._data = int.from_bytes(header[5:8], "big")
        self._padding = -self._data & 3
        if not self._continued:
            self._text.forget()
        self._continued = bool(header[1] & 0x40)

    def _finish(self) -> None:
        header = self._header
        transit_to_full_feature = header[1] & 0x83 == 0x83
        if header[0] == _LOGIN_RESPONSE and transit_to_full_feature and header[36] == 0:
            self.over = True
        header.clear()


class Redactor:
    """Both directions of one connection, from its first byte on."""

    def __init__(self) -> None:
        self._sides = {True: _Side(), False: _Side()}

    def feed(self, outward: bool, piece: bytes) -> bytes:
        """The next piece of one direction as it may be written down, of the same length."""
        if self._sides[False].over:
            return piece
        return self._sides[outward].feed(piece)
