# SPDX-License-Identifier: Apache-2.0
"""``iscsi://[user@]host[:port][,host2[:port]...]/target-name[/lun]``: one string that names a LUN.

Owns the syntax. The target name is kept as written (RFC 7143 4.2.7 compares byte for byte, and
targets exist whose names have capitals); the portals are several ways to the same target.

A password in a URL would stand in process lists and logs: it is refused, and neither the error
nor any other error of this module repeats what may be one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from .errors import InvalidName, InvalidUrl, SecretError
from .names import Portal, check_iscsi_name

SCHEME = "iscsi://"
MAX_LUN = 0x3FFF
"""The largest LUN of flat space addressing (SAM-5); others are given as 8 bytes, not in a URL."""

_FORM = "iscsi://[user@]host[:port][,host2[:port]...]/target-name[/lun]"
_REMEDY = "take it out of the URL and give it as a secret file or a Chap object"


@dataclass(frozen=True, slots=True)
class IscsiUrl:
    """What a URL said; ``user`` is the CHAP name, ``lun`` is None where none was given."""

    user: str | None
    portals: tuple[Portal, ...]
    target: str
    lun: int | None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        portals = ",".join(portal.address for portal in self.portals)
        lun = f"/{self.lun}" if self.lun is not None else ""
        return f"{SCHEME}{user}{portals}/{quote(self.target, safe=':')}{lun}"


def parse_url(text: str) -> IscsiUrl:
    """Read an ``iscsi://`` URL.

    Raises:
        SecretError: there is a password in it, or something that may be one.
        InvalidUrl: it cannot be read; the error names the part.
    """
    text = text.strip()
    if text[: len(SCHEME)].lower() != SCHEME:
        raise InvalidUrl("URL", _shown(text), f"does not start with {SCHEME}", f"write {_FORM}")
    rest, question, query = text[len(SCHEME) :].partition("?")
    if "password" in query.lower():
        raise SecretError("URL", None, "has a password in its query", _REMEDY)
    if question or "#" in rest:
        raise InvalidUrl("URL", _shown(text), "has a query or a fragment", f"write {_FORM}")
    authority, slash, path = rest.partition("/")
    user = _user(authority)
    portals = _portals(text, authority.rpartition("@")[2])
    if not slash or not path:
        raise InvalidUrl("URL", _shown(text), "names no target", f"write {_FORM}")
    target, _, lun_text = path.partition("/")
    return IscsiUrl(user, portals, _target(text, target), _lun(text, lun_text))


def _user(authority: str) -> str | None:
    user, at, _ = authority.rpartition("@")
    if not at:
        return None
    if ":" in user or "%" in user:
        raise SecretError(
            "URL",
            None,
            "has a password before the @ (after : or %)",
            f"{_REMEDY}; a user name with : or % in it belongs there too",
        )
    if not user or "@" in user or any(char.isspace() for char in user):
        raise InvalidUrl("URL", None, "has no usable user name before the @", f"write {_FORM}")
    return user


def _portals(text: str, hosts: str) -> tuple[Portal, ...]:
    portals = []
    for item in hosts.split(","):
        try:
            portal = Portal.parse(item)
        except InvalidUrl as error:
            if "@" in text:
                # A password with a slash in it puts its own pieces where the host is read.
                raise SecretError(
                    "URL", None, "cannot be read, and may have a password in it", _REMEDY
                ) from None
            raise InvalidUrl("URL", text, error.reason, error.remedy or f"write {_FORM}") from None
        if portal in portals:
            raise InvalidUrl("URL", _shown(text), f"names the portal {portal} twice")
        portals.append(portal)
    return tuple(portals)


def _target(text: str, quoted: str) -> str:
    try:
        return check_iscsi_name(unquote_to_bytes(quoted).decode())
    except UnicodeError:  # its bytes, or an argument that was none of text
        raise InvalidUrl("URL", _shown(text), "has a target name that is not UTF-8") from None
    except InvalidName as error:
        reason = f"has a target name that {error.reason}"
        raise InvalidUrl("URL", _shown(text), reason, error.remedy) from None


def _lun(text: str, digits: str) -> int | None:
    if not digits:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", digits) or int(digits) > MAX_LUN:
        raise InvalidUrl("URL", _shown(text), f"has a LUN that is no number in 0..{MAX_LUN}")
    return int(digits)


def _shown(text: str) -> str:
    """The URL without what may be a secret: nothing before the last @, nothing after a ?."""
    head, _, query = text.partition("?")
    if "@" in query:
        return f"{SCHEME}..."
    before, at, tail = head.rpartition("@")
    return f"...@{tail}" if at else before + tail
