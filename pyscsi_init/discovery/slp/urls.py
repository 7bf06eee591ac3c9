# SPDX-License-Identifier: Apache-2.0
"""Service URLs and attribute lists, as RFC 4018 and RFC 2608 write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import InvalidUrl
from ...names import Portal

TARGET_TYPE = "service:iscsi:target"
DIRECTORY_AGENT_TYPE = "service:directory-agent"
PORTAL_GROUP = "portal-group"

_ESCAPED = re.compile(r"[\\%]([0-9A-Fa-f]{2})")
_ATTRIBUTE = re.compile(r"\(([^()=]+)=([^()]*)\)")


@dataclass(frozen=True, slots=True)
class TargetUrl:
    """``service:iscsi:target://host[:port]/iscsi-name[/identity]`` (RFC 4018 5.2)."""

    portal: Portal
    name: str
    identity: str = ""
    """The initiator that may use it, where the URL is for one alone."""


def unescape(text: str) -> str:
    """Text with its escaped bytes put back; what is no UTF-8 then stays as it was written."""
    data = b""
    end = 0
    for match in _ESCAPED.finditer(text):
        data += text[end : match.start()].encode() + bytes.fromhex(match[1])
        end = match.end()
    try:
        return (data + text[end:].encode()).decode()
    except UnicodeDecodeError:
        return text


def parse_target_url(text: str) -> TargetUrl:
    """Read the service URL of a target. Names are kept as they are written.

    Raises:
        InvalidUrl: it is another URL, or has no name, or its address cannot be read.
    """
    prefix, slashes, rest = text.partition("://")
    if not slashes or prefix.lower() != TARGET_TYPE:
        raise InvalidUrl("service URL", text, f"does not start with {TARGET_TYPE}://")
    # RFC 2608 4.1: attributes of a URL may follow after a semicolon.
    authority, _, path = rest.partition(";")[0].partition("/")
    name, _, identity = path.partition("/")
    if not name:
        raise InvalidUrl("service URL", text, "names no target")
    if "," in authority:
        raise InvalidUrl("service URL", text, "has a portal group tag, which is an attribute here")
    return TargetUrl(Portal.parse(authority), unescape(name), unescape(identity))


def parse_agent_url(text: str) -> str:
    """The host of ``service:directory-agent://host``. Raises InvalidUrl."""
    prefix, slashes, rest = text.partition("://")
    if not slashes or prefix.lower() != DIRECTORY_AGENT_TYPE:
        raise InvalidUrl("service URL", text, f"does not start with {DIRECTORY_AGENT_TYPE}://")
    return Portal.parse(rest.partition("/")[0].partition(";")[0]).host


def parse_attributes(text: str) -> dict[str, tuple[str, ...]]:
    """An attribute list ``(tag=value,value),(tag=value)``: tags in lower case, values unescaped.

    Keywords, which have no value, and what cannot be read are left out.
    """
    return {
        match[1].strip().lower(): tuple(unescape(each.strip()) for each in match[2].split(","))
        for match in _ATTRIBUTE.finditer(text)
    }


def portal_group_tag(attributes: str) -> int | None:
    """The portal group tag of a target's address; None where none is told."""
    for value in parse_attributes(attributes).get(PORTAL_GROUP, ()):
        if re.fullmatch(r"[0-9]{1,5}", value) and int(value) <= 0xFFFF:
            return int(value)
    return None
