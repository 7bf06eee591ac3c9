# SPDX-License-Identifier: Apache-2.0
"""The target's half of CHAP (RFC 7143 12.1, RFC 1994), over the text of the login phase.

:class:`ChapExchange` takes the keys of one step and gives those of the next; it ends authenticated
or with :class:`ChapFailure`. Secrets are compared in constant time and are in no error text.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from ..errors import ProtocolError
from ..login.text import decode_binary, encode_base64, encode_hex, parse_list, parse_number
from .settings import MD5, SHA1, SHA3_256, SHA256, TargetChap

HASHES: dict[int, Callable[[bytes], bytes]] = {
    MD5: lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
    SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    SHA256: lambda data: hashlib.sha256(data).digest(),
    SHA3_256: lambda data: hashlib.sha3_256(data).digest(),
}
MOST_BINARY_LENGTH = 1024


class ChapFailure(Exception):
    """The initiator has not proved what it must."""


def response(algorithm: int, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """The CHAP response: hash of identifier, secret and challenge (RFC 1994 4.1)."""
    return HASHES[algorithm](bytes((identifier,)) + secret + challenge)


class ChapExchange:
    """CHAP of one login."""

    def __init__(
        self, accounts: Sequence[TargetChap], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._accounts = accounts
        self._random_bytes = random_bytes
        self._algorithm = 0
        self._identifier = 0
        self._challenge = b""
        self.user = ""
        self.authenticated = False

    def receive(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        """Take the CHAP keys of one request and return those of the response.

        Raises:
            ChapFailure: the step is wrong, or the response is.
        """
        try:
            if "CHAP_A" in keys:
                return self._challenge_initiator(keys["CHAP_A"])
            if "CHAP_N" in keys and "CHAP_R" in keys and self._challenge:
                return self._verify(keys)
        except ProtocolError as error:
            raise ChapFailure(str(error)) from None
        raise ChapFailure("keys that do not belong to this step of CHAP")

    def _encode(self, account: TargetChap, value: bytes) -> str:
        return encode_base64(value) if account.encoding == "base64" else encode_hex(value)

    def _challenge_initiator(self, offer: str) -> list[tuple[str, str]]:
        account = self._accounts[0]
        able = {algorithm for one in self._accounts for algorithm in one.algorithms}
        for text in parse_list(offer):
            algorithm = parse_number(text)
            if algorithm in able and algorithm in HASHES:
                break
        else:
            raise ChapFailure("no algorithm in common")
        self._algorithm = algorithm
        self._identifier = self._random_bytes(1)[0]
        self._challenge = self._random_bytes(account.challenge_length)
        return [
            ("CHAP_A", str(algorithm)),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", self._encode(account, self._challenge)),
        ]

    def _verify(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        name = keys["CHAP_N"]
        given = decode_binary(keys["CHAP_R"], MOST_BINARY_LENGTH)
        challenge, self._challenge = self._challenge, b""
        account = next(
            (
                one
                for one in self._accounts
                if one.user == name and self._algorithm in one.algorithms
            ),
            None,
        )
        secret = account.secret if account is not None else self._random_bytes(16)
        expected = response(self._algorithm, self._identifier, secret, challenge)
        if not hmac.compare_digest(given, expected) or account is None:
            raise ChapFailure("wrong CHAP name or response")
        self.user = name
        answer = self._prove(account, keys, challenge)
        self.authenticated = True
        return answer

    def _prove(
        self, account: TargetChap, keys: dict[str, str], challenge: bytes
    ) -> list[tuple[str, str]]:
        if "CHAP_I" not in keys and "CHAP_C" not in keys:
            return []
        if account.mutual_secret is None:
            raise ChapFailure("the initiator wants a proof that this account does not have")
        identifier = parse_number(keys.get("CHAP_I", ""))
        theirs = decode_binary(keys.get("CHAP_C", ""), MOST_BINARY_LENGTH)
        if identifier > 255 or theirs == challenge:
            raise ChapFailure("an identifier out of range, or our own challenge sent back")
        secret = account.secret if account.reflect_challenge else account.mutual_secret
        proof = bytearray(response(self._algorithm, identifier, secret, theirs))
        if account.wrong_mutual_response:
            proof[-1] ^= 0x01
        return [
            ("CHAP_N", account.mutual_user or account.user),
            ("CHAP_R", self._encode(account, bytes(proof))),
        ]
