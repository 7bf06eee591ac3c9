# SPDX-License-Identifier: Apache-2.0
"""Cinder's ``connection_info`` for iSCSI, read once: portals, target, LUN, CHAP, access mode.

It comes in several coats: as the answer of the volume API (``{"connection_info": ...}``), as that
of the attachment API (everything in one mapping), as ``{"driver_volume_type", "data"}``, and as the
``data`` alone, which is what a connector is given. All of them are taken.

What must not be passed over in silence is refused: an encrypted volume, an authentication that is
not CHAP, lists that do not belong together. The password becomes a Secret here and is in no error.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusefs.errors import InvalidSpec
from fusefs.spec import VolumeSpec, default_volume_name
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.names import Portal, check_iscsi_name
from pyscsi_init.secret import Chap, Secret
from pyscsi_init.url import MAX_LUN, IscsiUrl

NAME_PREFIX = "cinder-"
DRIVER_TYPE = "iscsi"
MAX_BYTES = 1 << 20
"""A file that is larger is not what it should be."""

_WHAT = "connection_info"
_PASSWORDS = ("auth_password", "discovery_auth_password")
_DISCOVERY = (
    "all of target_portal, target_iqn and target_lun must be there (or target_portals, "
    "target_iqns and target_luns): nothing is discovered here"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One volume of Cinder.

    ``urls`` are the ways to it, the first one first. Portals that lead to the same target and LUN
    are one URL; a storage array that gives each portal a target name of its own needs several, and
    one of them is used at a time.
    """

    name: str
    urls: tuple[IscsiUrl, ...]
    chap: Chap | None = None
    read_only: bool = False
    notes: tuple[str, ...] = ()
    """What was asked for and is not done here."""

    def specs(self, **values: Any) -> tuple[VolumeSpec, ...]:
        """The volume by each of its ways; ``values`` are other fields of VolumeSpec."""
        read_only = values.pop("read_only", False) or self.read_only
        name = values.pop("name", "") or self.name
        return tuple(
            VolumeSpec(name=name, url=str(url), read_only=read_only, **values) for url in self.urls
        )


def volume_name(info: Mapping[str, Any]) -> str:
    """``cinder-<volume id>``; where no id is told, target and LUN stand in its place.

    It needs no more than the id, so that what was connected can be ended whatever else is missing
    by then.
    """
    properties = _properties(info)
    volume_id = properties.get("volume_id") or default_volume_name(_urls(properties)[0])
    return f"{NAME_PREFIX}{volume_id}"


def read_connection(info: Mapping[str, Any]) -> Connection:
    """What ``connection_info`` says, in any of its coats.

    Raises:
        InvalidSpec: it cannot be used; the error names the key and never repeats the password.
    """
    properties = _properties(info)
    if properties.get("encrypted"):
        raise InvalidSpec(
            f"{_WHAT} encrypted",
            True,
            "an encrypted volume would be written to in clear here",
            remedy="let Nova attach it, or open it with cryptsetup over a volume that Cinder "
            "does not call encrypted",
        )
    urls = _urls(properties)
    mode = properties.get("access_mode") or "rw"
    if mode not in ("rw", "ro"):
        raise InvalidSpec(f"{_WHAT} access_mode", mode, "is not known", remedy="one of rw, ro")
    return Connection(
        name=volume_name(properties),
        urls=urls,
        chap=_chap(properties),
        read_only=mode == "ro",
        notes=tuple(_notes(properties)),
    )


def load_connection(path: str) -> Connection:
    """The connection in a JSON file; ``-`` is standard input.

    Raises:
        InvalidSpec: it is no JSON object, cannot be used, or has a password that others may read.
        OSError: the file cannot be read.
    """
    if path == "-":
        raw, mode, shown = sys.stdin.buffer.read(MAX_BYTES + 1), 0, "standard input"
    else:
        with open(path, "rb") as file:  # noqa: PTH123  (its descriptor is looked at too)
            status = os.fstat(file.fileno())
            # A pipe (`<(...)`) is nobody else's to read, whatever its mode.
            mode = status.st_mode if stat.S_ISREG(status.st_mode) else 0
            raw, shown = file.read(MAX_BYTES + 1), path
    if len(raw) > MAX_BYTES:
        raise InvalidSpec(_WHAT, shown, f"is larger than {MAX_BYTES} bytes")
    try:
        info = json.loads(raw)
    except (ValueError, RecursionError) as error:
        # The decoder's own text says where; it repeats nothing of the content.
        why = (
            f": {error.msg} in line {error.lineno}"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise InvalidSpec(_WHAT, shown, f"is no JSON{why}") from None
    if not isinstance(info, dict):
        raise InvalidSpec(_WHAT, shown, "is no JSON object")
    connection = read_connection(info)
    if mode & 0o077 and any(map(_properties(info).get, _PASSWORDS)):
        raise InvalidSpec(
            _WHAT,
            shown,
            f"has a password in it, and others may read it (mode {stat.S_IMODE(mode):04o})",
            remedy=f"chmod 600 {shown}, and consider the password known to others now",
        )
    return connection


def _properties(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost mapping, which has the target; refuses other transports."""
    for wrapping in ("attachment", "connection_info"):
        if isinstance(info.get(wrapping), Mapping):
            info = info[wrapping]
    kind = info.get("driver_volume_type")
    if kind is not None and kind != DRIVER_TYPE:
        raise InvalidSpec(
            f"{_WHAT} driver_volume_type", kind, "is not iSCSI", remedy="use its own connector"
        )
    data = info.get("data")
    if data is None:
        return info
    if not isinstance(data, Mapping):
        raise InvalidSpec(f"{_WHAT} data", None, "is no mapping")
    return data


def _urls(properties: Mapping[str, Any]) -> tuple[IscsiUrl, ...]:
    """Portals by target and LUN, in the order in which they were named first."""
    ways: dict[tuple[str, int], list[Portal]] = {}
    for portal, target, lun in _triples(properties):
        portals = ways.setdefault((target, lun), [])
        if portal not in portals:
            portals.append(portal)
    return tuple(
        IscsiUrl(None, tuple(portals), target, lun) for (target, lun), portals in ways.items()
    )


def _triples(properties: Mapping[str, Any]) -> list[tuple[Portal, str, int]]:
    found = []
    single = [properties.get(key) for key in ("target_portal", "target_iqn", "target_lun")]
    if all(value is not None for value in single):
        found.append(
            (
                _portal("target_portal", single[0]),
                _target("target_iqn", single[1]),
                _lun("target_lun", single[2]),
            )
        )
    portals, targets = _list(properties, "target_portals"), _list(properties, "target_iqns")
    luns = _list(properties, "target_luns")
    if luns is None and portals is not None and single[2] is not None:
        luns = [single[2]] * len(portals)
    if portals is not None and targets is not None and luns is not None:
        if not len(portals) == len(targets) == len(luns):
            raise InvalidSpec(
                f"{_WHAT} target_portals",
                f"{len(portals)} of them",
                f"have {len(targets)} target_iqns and {len(luns)} target_luns",
                remedy="the lists must be of one length",
            )
        for portal, target, lun in zip(portals, targets, luns, strict=True):
            found.append(
                (
                    _portal("target_portals", portal),
                    _target("target_iqns", target),
                    _lun("target_luns", lun),
                )
            )
    elif portals or targets:
        missing = [
            name
            for name, value in (
                ("target_portals", portals),
                ("target_iqns", targets),
                ("target_luns", luns),
            )
            if value is None
        ]
        raise InvalidSpec(f"{_WHAT} {', '.join(missing)}", None, "is missing", remedy=_DISCOVERY)
    if not found:
        missing = [
            name
            for name, value in zip(
                ("target_portal", "target_iqn", "target_lun"), single, strict=True
            )
            if value is None
        ]
        raise InvalidSpec(
            f"{_WHAT} {', '.join(missing) or 'target_portals'}",
            None,
            "is missing",
            remedy=_DISCOVERY,
        )
    return found


def _list(properties: Mapping[str, Any], key: str) -> Sequence[Any] | None:
    value = properties.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise InvalidSpec(f"{_WHAT} {key}", value, "is no list")
    return value


def _portal(key: str, value: object) -> Portal:
    try:
        portal = Portal.parse(str(value))
    except ConfigurationError as error:
        raise InvalidSpec(
            f"{_WHAT} {key}", value, error.reason, remedy=error.remedy or "write address:port"
        ) from None
    return Portal(portal.host, portal.port)


def _target(key: str, value: object) -> str:
    try:
        return check_iscsi_name(str(value))
    except ConfigurationError as error:
        raise InvalidSpec(f"{_WHAT} {key}", value, error.reason, remedy=error.remedy) from None


def _lun(key: str, value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise InvalidSpec(f"{_WHAT} {key}", value, "is no LUN")
    if int(text) > MAX_LUN:
        raise InvalidSpec(f"{_WHAT} {key}", value, f"is above {MAX_LUN}")
    return int(text)


def _chap(properties: Mapping[str, Any]) -> Chap | None:
    method = properties.get("auth_method")
    if not method or str(method).upper() == "NONE":
        return None
    if str(method).upper() != "CHAP":
        raise InvalidSpec(f"{_WHAT} auth_method", method, "is not known", remedy="CHAP, or none")
    user, password = properties.get("auth_username"), properties.get("auth_password")
    for key, value in (("auth_username", user), ("auth_password", password)):
        if not value or not isinstance(value, str):
            raise InvalidSpec(
                f"{_WHAT} {key}",
                None,
                "is missing, and auth_method is CHAP",
                remedy="only an administrator's or a service's token gets it from Cinder",
            )
    return Chap(user=str(user), secret=Secret(str(password)))


def _notes(properties: Mapping[str, Any]) -> list[str]:
    notes = []
    if properties.get("qos_specs"):
        limits = ", ".join(sorted(map(str, properties["qos_specs"])))
        notes.append(
            f"the limits of qos_specs ({limits}) are for whoever uses the device, as with every "
            f"connector: a hypervisor, or a control group's io.max"
        )
    return notes
