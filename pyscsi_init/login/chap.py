# SPDX-License-Identifier: Apache-2.0
"""CHAP, the initiator's half: one-way and mutual, MD5, SHA1, SHA-256 and SHA3-256.

RFC 7143 12.1.3 gives the keys and their steps, RFC 1994 4.1 the hash over identifier, secret and
challenge, RFC 7143 9.2.1 the rules that keep it from being worthless: a secret of 96 bits, not the
same secret both ways, no challenge of ours coming back to us. It takes and gives pairs and knows no
PDUs and no stages.

INVARIANT: neither a secret nor a CHAP_R is in any repr or error text (tests: test_chap.py).
"""

from __future__ import annotations

import hashlib
import hmac
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from ..errors import (
    ConfigurationError,
    LocalProtocolError,
    ProtocolError,
    SecretError,
    TargetAuthenticationFailed,
)
from ..secret import Chap, Secret
from .text import Pair, decode_binary, encode_hex, format_list, parse_number, shorten

MAX_BINARY_LENGTH = 1024
"""Longest CHAP_C and CHAP_R in binary form (RFC 7143 12.1.3)."""

MIN_SECRET_LENGTH = 12
"""96 bits (RFC 7143 9.2.1)."""

MAX_NAME_LENGTH = 255
"""Longest simple-value (RFC 7143 6.1), so longest CHAP_N."""

MD5 = 5


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A value of CHAP_A."""

    name: str
    hash_name: str
    length: int


ALGORITHMS: dict[int, Algorithm] = {
    MD5: Algorithm("MD5", "md5", 16),
    6: Algorithm("SHA1", "sha1", 20),
    7: Algorithm("SHA-256", "sha256", 32),
    8: Algorithm("SHA3-256", "sha3_256", 32),
}
"""CHAP_A -> hash, as IANA's registry of PPP authentication algorithms has them."""

CHAP_KEYS = frozenset(("CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"))

_PENDING: weakref.WeakValueDictionary[bytes, ChapInitiator] = weakref.WeakValueDictionary()
"""Challenges that any login of this process has out, to know them when they come back."""


def chap_response(algorithm: int, identifier: int, secret: Secret, challenge: bytes) -> bytes:
    """The hash over identifier, secret and challenge (RFC 1994 4.1)."""
    digest = hashlib.new(ALGORITHMS[algorithm].hash_name, usedforsecurity=False)
    digest.update(bytes((identifier,)))
    digest.update(secret.reveal())
    digest.update(challenge)
    return digest.digest()


def check_chap(chap: Chap) -> None:
    """Refuse credentials that cannot or must not be used.

    Raises:
        SecretError: a secret is empty, shorter than 96 bits, or the same both ways.
        ConfigurationError: a name or an algorithm that CHAP does not have.
    """
    for what, secret in (("CHAP secret", chap.secret), ("mutual CHAP secret", chap.mutual_secret)):
        if secret is None:
            continue
        if len(secret) == 0:
            raise SecretError(what, None, "is empty", "give the secret that the target has")
        if len(secret) < MIN_SECRET_LENGTH and not chap.allow_short_secret:
            # RFC 7143 9.2.1: no CHAP with secrets under 96 bits, unless the wire is encrypted.
            raise SecretError(
                what,
                None,
                f"has {len(secret)} bytes, RFC 7143 9.2.1 wants {MIN_SECRET_LENGTH}",
                "use a longer secret on both sides, or Chap(allow_short_secret=True)",
            )
    if chap.mutual_secret is not None and chap.mutual_secret == chap.secret:
        raise SecretError(
            "mutual CHAP secret",
            None,
            "is the same as the CHAP secret, so a target could prove itself with our own answer",
            "use two different secrets (RFC 7143 9.2.1)",
        )
    for what, name in (("CHAP user", chap.user), ("mutual CHAP user", chap.mutual_user)):
        try:
            too_long = len(name.encode()) > MAX_NAME_LENGTH
        except UnicodeEncodeError:
            raise ConfigurationError(what, name, "is not Unicode text") from None
        if too_long or "\0" in name:
            raise ConfigurationError(what, name, f"has a NUL or more than {MAX_NAME_LENGTH} bytes")
    unknown = [number for number in chap.algorithms if number not in ALGORITHMS]
    if unknown or not chap.algorithms or len(set(chap.algorithms)) != len(chap.algorithms):
        raise ConfigurationError(
            "CHAP algorithms",
            chap.algorithms,
            "is not a list of different algorithms",
            "known are " + ", ".join(f"{n} {row.name}" for n, row in ALGORITHMS.items()),
        )


class ChapStep(Enum):
    """How far the exchange is: the key group that was sent last."""

    START = auto()
    ALGORITHMS_SENT = auto()
    RESPONSE_SENT = auto()
    DONE = auto()


class ChapInitiator:
    """One CHAP exchange.

    ``first_keys()`` opens it; then each answer of the target goes to ``receive()``, which gives the
    keys to send next. With ``step`` at DONE the target may end the stage.
    """

    def __init__(self, chap: Chap, random_bytes: Callable[[int], bytes]) -> None:
        check_chap(chap)
        self._chap = chap
        self._random_bytes = random_bytes
        # RFC 7143 12.1.3: MD5 must always be offered, wherever the caller puts it.
        self._offer = chap.algorithms if MD5 in chap.algorithms else (*chap.algorithms, MD5)
        self._identifier = 0
        self._challenge = b""
        self.step = ChapStep.START
        self.algorithm: int | None = None
        self.response_sent = False

    def __repr__(self) -> str:
        return f"<ChapInitiator {self.step.name} user={self._chap.user!r}>"

    @property
    def user(self) -> str:
        """The name we give as CHAP_N."""
        return self._chap.user

    @property
    def mutual(self) -> bool:
        """Whether the target has to prove itself too."""
        return self._chap.mutual_secret is not None

    def first_keys(self) -> list[Pair]:
        """CHAP_A with the algorithms that we offer."""
        self.step = ChapStep.ALGORITHMS_SENT
        return [("CHAP_A", format_list([str(number) for number in self._offer]))]

    def receive(self, keys: Mapping[str, str]) -> list[Pair]:
        """Take the CHAP keys of one answer, empty if it has none; the keys to send next.

        Raises:
            ProtocolError: keys or values that do not belong to this step (RFC 7143 9.2).
            TargetAuthenticationFailed: the target did not prove that it knows its secret.
        """
        if self.step is ChapStep.ALGORITHMS_SENT:
            return self._answer_challenge(keys)
        mutual_secret = self._chap.mutual_secret
        if (
            self.step is ChapStep.RESPONSE_SENT
            and self.algorithm is not None
            and mutual_secret is not None
        ):
            self._verify_target(keys, self.algorithm, mutual_secret)
            return []
        if keys:
            raise ProtocolError(
                f"the target sent {', '.join(sorted(keys))} when CHAP was not asking for it "
                "(RFC 7143 12.1.3)"
            )
        return []

    def _answer_challenge(self, keys: Mapping[str, str]) -> list[Pair]:
        if set(keys) != {"CHAP_A", "CHAP_I", "CHAP_C"}:
            raise ProtocolError(
                "the target must answer CHAP_A with CHAP_A, CHAP_I and CHAP_C, but sent "
                f"{', '.join(sorted(keys)) or 'none of them'} (RFC 7143 12.1.3)"
            )
        algorithm = parse_number(keys["CHAP_A"])
        if algorithm not in self._offer:
            raise ProtocolError(
                f"the target chose CHAP_A={shorten(keys['CHAP_A'])}, which was not offered "
                "(RFC 7143 12.1.3)"
            )
        identifier = parse_number(keys["CHAP_I"])
        if identifier > 255:
            raise ProtocolError(f"CHAP_I={identifier} is more than one octet (RFC 1994 4.1)")
        challenge = decode_binary(keys["CHAP_C"], MAX_BINARY_LENGTH)
        # RFC 7143 9.2.1: a challenge of ours that comes back on any connection is an attack: its
        # answer would be what the other side cannot compute.
        if challenge in _PENDING:
            raise ProtocolError(
                "the target sent us a challenge of our own: somebody reflects CHAP between two "
                "connections (RFC 7143 9.2.1)"
            )
        self.algorithm = algorithm
        response = chap_response(algorithm, identifier, self._chap.secret, challenge)
        pairs = [("CHAP_N", self._chap.user), ("CHAP_R", encode_hex(response))]
        if self._chap.mutual_secret is None:
            self.step = ChapStep.DONE
        else:
            self._draw_challenge(algorithm, identifier, challenge)
            pairs += [("CHAP_I", str(self._identifier)), ("CHAP_C", encode_hex(self._challenge))]
            self.step = ChapStep.RESPONSE_SENT
        self.response_sent = True
        return pairs

    def _draw_challenge(self, algorithm: int, identifier: int, challenge: bytes) -> None:
        length = ALGORITHMS[algorithm].length
        for _ in range(8):
            drawn = bytes(self._random_bytes(length))
            if len(drawn) == length and drawn != challenge and drawn not in _PENDING:
                break
        else:
            raise LocalProtocolError("the source of random bytes does not give new ones")
        own = self._random_bytes(1)[0]
        self._identifier = own if own != identifier else (own + 1) % 256
        self._challenge = drawn
        _PENDING[drawn] = self

    def _verify_target(
        self, keys: Mapping[str, str], algorithm: int, mutual_secret: Secret
    ) -> None:
        if "CHAP_R" not in keys:
            raise TargetAuthenticationFailed(
                "the target did not prove itself: it sent no CHAP_R to our challenge; "
                "set up mutual CHAP at the target, or give no mutual secret"
            )
        if set(keys) != {"CHAP_N", "CHAP_R"}:
            raise ProtocolError(
                "the target must end mutual CHAP with CHAP_N and CHAP_R, but sent "
                f"{', '.join(sorted(keys))} (RFC 7143 12.1.3)"
            )
        received = decode_binary(keys["CHAP_R"], MAX_BINARY_LENGTH)
        expected, reflected = (
            chap_response(algorithm, self._identifier, secret, self._challenge)
            for secret in (mutual_secret, self._chap.secret)
        )
        self.forget()
        # RFC 7143 9.2.1: a response equal to the one we would give is no proof of anything.
        if hmac.compare_digest(received, reflected):
            raise TargetAuthenticationFailed(
                "the target answered our challenge with our own secret: it uses one secret both "
                "ways, or reflects; give the target a secret of its own (RFC 7143 9.2.1)"
            )
        if not hmac.compare_digest(received, expected):
            raise TargetAuthenticationFailed(
                "the target accepted us, but did not prove itself: its answer does not fit the "
                "mutual secret; compare the mutual secret with the one at the target"
            )
        if self._chap.mutual_user and keys["CHAP_N"] != self._chap.mutual_user:
            raise TargetAuthenticationFailed(
                f"the target proved itself as {shorten(keys['CHAP_N'])}, but "
                f"{self._chap.mutual_user!r} is expected here; correct the mutual user name"
            )
        self.step = ChapStep.DONE

    def forget(self) -> None:
        """The challenge is answered, or will not be: it is no longer pending."""
        if _PENDING.get(self._challenge) is self:
            del _PENDING[self._challenge]
