# SPDX-License-Identifier: Apache-2.0
"""``docker volume create -o NAME=VALUE``: the options, and the VolumeSpec that they describe.

One table says which options there are, what each means and what holds without it; the
documentation is held against it. What is wrong is refused when the volume is created, in one
sentence that names the option, the value, the reason and the remedy.

A secret is never an option: Docker keeps options in its own files and shows them to everybody who
may ask it. Such an option is refused, and the value of an option that is not known is never
repeated, because it may be one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fusefs.errors import InvalidSpec
from fusefs.spec import (
    DURABILITIES,
    FENCINGS,
    FILESYSTEMS,
    FSCK_POLICIES,
    FUSE_CHANNELS,
    VolumeSpec,
    recovery_timeout,
)
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.names import Portal, check_iscsi_name
from pyscsi_init.settings import settings_from_mapping
from pyscsi_init.url import MAX_LUN, SCHEME, parse_url

SETTING = "set."
"""``set.MaxBurstLength=262144``: a setting of the session, by its RFC 7143 name or ours."""

_TRUE = ("", "true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_SECRET = re.compile(r"secret|passw|pwd", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Option:
    """One option: the field of VolumeSpec, or the setting, that it fills, and how it is read."""

    name: str
    default: str
    meaning: str
    field: str = ""
    read: Callable[[Option, str], Any] = lambda _option, text: text
    setting: str = ""

    def wrong(self, value: str, reason: str, remedy: str) -> InvalidSpec:
        """The error for a value of it."""
        return InvalidSpec(f"option {self.name}", value, reason, remedy=remedy)


def _flag(option: Option, text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise option.wrong(text, "is neither yes nor no", "true or false")


def _one_of(*words: str) -> Callable[[Option, str], str]:
    def read(option: Option, text: str) -> str:
        if text not in words:
            raise option.wrong(text, "is not known", f"one of {', '.join(words)}")
        return text

    return read


def _path(option: Option, text: str) -> str:
    if not text.startswith("/"):
        # Not repeated: it may be the secret itself, given in place of its file.
        raise InvalidSpec(
            f"option {option.name}",
            None,
            "is not an absolute path",
            remedy="name a file of this host, such as /etc/iscsi-secret",
        )
    return text


def _iscsi_name(option: Option, text: str) -> str:
    try:
        return check_iscsi_name(text)
    except ConfigurationError as error:
        raise option.wrong(
            text, error.reason, error.remedy or "such as iqn.2026-01.org.example:disk1"
        ) from error


def _on_disconnect(option: Option, text: str) -> str:
    try:
        recovery_timeout(text)
    except InvalidSpec as error:
        raise option.wrong(text, error.reason, error.remedy) from error
    return text


def _words(_option: Option, text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _portals(option: Option, text: str) -> str:
    portals = []
    for item in text.split(","):
        try:
            portals.append(Portal.parse(item.strip()).address)
        except ConfigurationError as error:
            raise option.wrong(
                item, error.reason, error.remedy or "write host, host:port or [address]:port"
            ) from error
    return ",".join(portals)


def _lun(option: Option, text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > MAX_LUN:
        raise option.wrong(text, f"is no number in 0..{MAX_LUN}", "`pyscsi-init luns` lists them")
    return text


def _setting(option: Option, text: str) -> str:
    try:
        settings_from_mapping({option.setting: text})
    except ConfigurationError as error:
        raise option.wrong(text, error.reason, error.remedy) from error
    return text


_TABLE = (
    Option("portal", "", "`host[:port]`, several with commas", read=_portals),
    Option("target", "", "the target's iSCSI name", read=_iscsi_name),
    Option("lun", "", "the logical unit's number", read=_lun),
    Option("url", "", "`iscsi://host[:port][,...]/target/lun`, instead of the three"),
    Option(
        "fstype",
        "",
        "what must be on the LUN, or is made; without it what is there, and ext4 is made",
        "fstype",
        _one_of(*FILESYSTEMS),
    ),
    Option(
        "mkfs",
        "false",
        "make a file system where nothing is, never elsewhere",
        "format_if_blank",
        _flag,
    ),
    Option("readonly", "false", "read-only in every layer", "read_only", _flag),
    Option("mountopts", "", "mount options, with commas", "mount_options", _words),
    Option(
        "fsck",
        "preen",
        "before the mount: `preen`, `never`, `force`",
        "fsck",
        _one_of(*FSCK_POLICIES),
    ),
    Option("chap_user", "", "the CHAP user that this node proves to be", "chap_user"),
    Option("chap_secret_file", "", "the file with its secret", "chap_secret_file", _path),
    Option(
        "chap_peer_user", "", "the CHAP user that the target must prove to be", "chap_peer_user"
    ),
    Option(
        "chap_peer_secret_file", "", "the file with its secret", "chap_peer_secret_file", _path
    ),
    Option("initiator_name", "", "this node's iSCSI name", "initiator_name", _iscsi_name),
    Option(
        "on_disconnect",
        "wait",
        "what I/O does while the target is away: `wait`, `fail-after=SECONDS`, `fail-fast`",
        "on_disconnect",
        _on_disconnect,
    ),
    Option(
        "durability",
        DURABILITIES[0],
        "when a write is stable: `target-cache` (after a flush), `fua` (when acknowledged)",
        "durability",
        _one_of(*DURABILITIES),
    ),
    Option(
        "fencing",
        "auto",
        "a persistent reservation for this node: `off`, `auto` (where the target can), `required`",
        "fencing",
        _one_of(*FENCINGS),
    ),
    Option(
        "take_over",
        "false",
        "take the reservation from the node that has it, instead of refusing",
        "take_over",
        _flag,
    ),
    Option(
        "network_namespace",
        "",
        "the network namespace for the connections: a name in /run/netns, or an absolute path",
        read=_setting,
        setting="network_namespace",
    ),
    Option(
        "network_interface",
        "",
        "the network interface for the connections",
        read=_setting,
        setting="network_interface",
    ),
    Option(
        "fuse", FUSE_CHANNELS[0], "how the block file is served", "fuse_channel",
        _one_of(*FUSE_CHANNELS),
    ),
)  # fmt: skip

OPTIONS: Mapping[str, Option] = {option.name: option for option in _TABLE}
"""Every option but the settings, in the order in which they are told."""

_ADDRESS = ("portal", "target", "lun")


def spec_of(name: str, options: Mapping[str, Any]) -> VolumeSpec:
    """The volume that the options describe.

    Raises:
        InvalidSpec, ConfigurationError: an option or a value that cannot be.
    """
    values: dict[str, Any] = {}
    settings: dict[str, str] = {}
    for key, text in options.items():
        if key.startswith(SETTING) and key != SETTING:
            settings[key.removeprefix(SETTING)] = str(text)
            continue
        option = _known(key)
        if not isinstance(text, str):
            raise option.wrong(repr(text), "is not text", "write NAME=VALUE")
        if text or option.read is _flag:
            values[key] = option.read(option, text)
    url = _url(values)
    settings |= {
        OPTIONS[key].setting: value for key, value in values.items() if OPTIONS[key].setting
    }
    fields = {OPTIONS[key].field: value for key, value in values.items() if OPTIONS[key].field}
    wanted = fields.get("mount_options", ())
    if "ro" in wanted:
        fields["read_only"] = True
    fields["mount_options"] = tuple(word for word in wanted if word not in ("ro", "rw"))
    return VolumeSpec(name=name, url=url, settings=settings, **fields)


def _known(key: str) -> Option:
    option = OPTIONS.get(key)
    if option is not None:
        return option
    if _SECRET.search(key) and not key.endswith("_file"):
        raise InvalidSpec(
            "option",
            key,
            "is a secret, and Docker stores options and shows them in `docker volume inspect`",
            remedy="put it in a file that only root can read, name it with chap_secret_file, "
            "and consider the secret known to others now",
        )
    near = difflib.get_close_matches(key, OPTIONS, 1)
    known = f"known are {', '.join(OPTIONS)} and {SETTING}KEY"
    raise InvalidSpec(
        "option", key, "is not known", remedy=f"did you mean {near[0]}? {known}" if near else known
    )


def _url(values: Mapping[str, Any]) -> str:
    if "url" in values:
        for key in _ADDRESS:
            if key in values:
                raise OPTIONS[key].wrong(
                    values[key], "is given beside url, which says it too", "give one of the two"
                )
        return str(parse_url(values["url"]))
    for key in _ADDRESS:
        if key not in values:
            raise InvalidSpec(
                f"option {key}",
                None,
                "is missing",
                remedy="give portal, target and lun (`pyscsi-init discover` and `luns` list "
                "them), or url=iscsi://host/target/lun",
            )
    target = quote(values["target"], safe=":")
    return str(parse_url(f"{SCHEME}{values['portal']}/{target}/{values['lun']}"))
