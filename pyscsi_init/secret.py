# SPDX-License-Identifier: Apache-2.0
"""CHAP credentials, and a secret that does not show itself.

A secret reaches this package from an argument, a file or the environment; from there on it is a
:class:`Secret`, whose ``repr`` and ``str`` are redacted, so that no log line, exception text or
state file can carry it by accident. ``reveal()`` is the only way out, and only login/chap.py and
the pipe to a worker process call it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path

from .errors import SecretError

_HOW_TO_GIVE = "give Secret(text), or what read_secret_file(path) reads"


class Secret:
    """Bytes that print as ``<secret>``; compares in constant time; cannot be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes of the secret."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(Secret)

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not serialized")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chap:
    """What CHAP needs (RFC 7143 12.1).

    ``user`` and ``secret`` prove us to the target (CHAP_N, CHAP_R). With ``mutual_secret`` the
    target must prove itself too; ``mutual_user``, if given, must be the name it answers with.
    ``algorithms`` is the offer in order of preference (CHAP_A): 5 MD5, 6 SHA1, 7 SHA-256,
    8 SHA3-256. 5 comes first by default, because targets exist that take 7 from the list and mean
    SHA1 by it; such a login fails although the secret is right.
    """

    user: str
    secret: Secret
    mutual_user: str = ""
    mutual_secret: Secret | None = None
    algorithms: tuple[int, ...] = (5, 8, 7, 6)
    allow_short_secret: bool = False

    def __post_init__(self) -> None:
        # A secret as text would show itself in the repr of this, and in tracebacks.
        mutual = self.mutual_secret
        if not isinstance(self.secret, Secret):
            raise SecretError("CHAP secret", None, "is no Secret", _HOW_TO_GIVE)
        if mutual is not None and not isinstance(mutual, Secret):
            raise SecretError("mutual CHAP secret", None, "is no Secret", _HOW_TO_GIVE)
        if self.mutual_user and mutual is None:
            raise SecretError(
                "mutual CHAP secret",
                None,
                f"is missing, so that the target would not have to prove itself as "
                f"{self.mutual_user!r}",
                "give mutual_secret too, or no mutual_user",
            )


def read_secret_file(path: str | Path) -> Secret:
    """Read a secret from a file; one newline at the end is not part of it.

    Raises:
        SecretError: the file cannot be read, or is empty.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise SecretError(
            f"CHAP secret file {str(path)!r}",
            None,
            f"cannot be read ({error.strerror})",
            "check the path and its permissions",
        ) from error
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if not raw:
        raise SecretError(
            f"CHAP secret file {str(path)!r}", None, "is empty", "write the secret in it"
        )
    return Secret(raw)
