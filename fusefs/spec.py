# SPDX-License-Identifier: Apache-2.0
"""What a volume is: the one record that every front door fills in and every layer below reads.

A VolumeSpec is checked once, when it is made; what exists is valid. It holds no secret: CHAP
credentials travel beside it, or it names the files that hold them. It also owns how a name from
outside (a Docker volume name, a CSI volume id, an IQN) becomes one path component, because a name
that is used as a path without that is a way out of the directory.

It does not know how a volume is attached, nor by which front door it was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from fusefs.errors import InvalidSpec
from pyscsi_init.names import check_iscsi_name
from pyscsi_init.settings import Settings, settings_from_mapping
from pyscsi_init.url import IscsiUrl, parse_url

FUSE_CHANNELS = ("native", "pyfuse3")
FILESYSTEMS = ("ext4", "xfs", "btrfs")
"""What can be made on a blank LUN; a LUN that already holds another one may still be mounted."""

DURABILITIES = ("target-cache", "fua")
"""When an acknowledged write is on stable storage: after the flush that follows it, or at once."""

FSCK_POLICIES = ("preen", "never", "force")
"""Before a writable mount: what the filesystem's makers advise, nothing, or a full check."""

FENCINGS = ("auto", "off", "required")
"""Whether other nodes are kept from writing by a persistent reservation: where the target has them,
never, or else the attach fails."""

DEFAULT_FILESYSTEM = "ext4"
MAX_NAME_LENGTH = 255

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:")
# A path component may have 255 bytes; what is longer keeps its head, for people, and a digest.
_MAX_DIRECTORY_NAME = 200


def volume_dir_name(name: str) -> str:
    """``name`` as one path component: one-to-one, readable, never empty, hidden, ``.`` or ``..``.

    Bytes outside the plain set become ``%XX``. A result that would be too long is cut and ends with
    ``%-`` and a digest of the whole, which no other name can produce.
    """
    raw = name.encode("utf-8", "surrogatepass")
    encoded = "".join(
        chr(byte) if chr(byte) in _PLAIN and not (byte == 0x2E and index == 0) else f"%{byte:02X}"
        for index, byte in enumerate(raw)
    )
    if not encoded:
        return "%-empty"
    if len(encoded) > _MAX_DIRECTORY_NAME:
        return f"{encoded[:128]}%-{hashlib.sha256(raw).hexdigest()[:40]}"
    return encoded


def default_volume_name(url: IscsiUrl | str) -> str:
    """The name of a volume that was given none: ``<target>-lun<N>``."""
    parsed = parse_url(url) if isinstance(url, str) else url
    return f"{parsed.target}-lun{parsed.lun if parsed.lun is not None else 0}"[:MAX_NAME_LENGTH]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    """One LUN, and what is to be made of it.

    ``name`` may be empty: then it is :func:`default_volume_name`. ``url`` is the text of an
    iscsi:// URL with target and LUN, without a password. ``fstype`` empty means: what is found on
    the LUN, and ext4 where it is made. ``settings`` are overrides by name for
    :class:`pyscsi_init.settings.Settings`. ``on_disconnect`` is what I/O does while the target is
    away after a successful attach: ``wait`` (for ever), ``fail-fast``, or ``fail-after=SECONDS``.
    ``durability`` is what an acknowledged write is worth: ``target-cache`` (stable once a flush
    that followed it has succeeded, as with any disk), or ``fua`` (stable when it is acknowledged).

    ``chap_user`` and ``chap_secret_file`` prove us to the target, ``chap_peer_user`` and
    ``chap_peer_secret_file`` the target to us; the files are read at each attach and nothing of
    them is kept. ``fsck`` is one of :data:`FSCK_POLICIES`, ``fencing`` one of :data:`FENCINGS`;
    ``take_over`` lets an attach preempt the reservation of another node. With ``block`` the volume
    has no filesystem: it is used as a raw block device.
    """

    name: str = ""
    url: str
    read_only: bool = False
    fstype: str = ""
    format_if_blank: bool = False
    mount_options: tuple[str, ...] = ()
    fuse_channel: str = "native"
    settings: Mapping[str, Any] = field(default_factory=dict)
    initiator_name: str = ""
    on_disconnect: str = "wait"
    durability: str = "target-cache"
    chap_user: str = ""
    chap_secret_file: str = ""
    chap_peer_user: str = ""
    chap_peer_secret_file: str = ""
    fsck: str = "preen"
    fencing: str = "auto"
    take_over: bool = False
    block: bool = False

    def __post_init__(self) -> None:
        address = parse_url(self.url)
        if not address.target or address.lun is None:
            raise InvalidSpec(
                "URL",
                self.url,
                "does not name one LUN",
                remedy="write iscsi://host/target-name/lun",
            )
        if not self.name:
            object.__setattr__(self, "name", default_volume_name(address))
        _check_name(self.name)
        if self.initiator_name:
            check_iscsi_name(self.initiator_name)
        _check_choice("FUSE channel", self.fuse_channel, FUSE_CHANNELS)
        _check_choice("durability", self.durability, DURABILITIES)
        _check_choice("fsck policy", self.fsck, FSCK_POLICIES)
        _check_choice("fencing", self.fencing, FENCINGS)
        if self.take_over and self.fencing == "off":
            raise InvalidSpec(
                "take_over", True, "contradicts fencing 'off'", remedy="drop one of the two"
            )
        if self.fstype and not (self.fstype.isascii() and self.fstype.replace("-", "").isalnum()):
            raise InvalidSpec(
                "file system",
                self.fstype,
                "is not the name of one",
                remedy=f"such as {FILESYSTEMS[0]}",
            )
        if self.format_if_blank:
            self._check_format()
        if self.block:
            self._check_block()
        self._check_credentials(address)
        object.__setattr__(self, "mount_options", tuple(self.mount_options))
        for option in self.mount_options:
            _check_mount_option(option)
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        self.session_settings()

    def _check_format(self) -> None:
        if self.read_only:
            raise InvalidSpec(
                "format_if_blank", True, "cannot be had read-only", remedy="drop one of the two"
            )
        if self.fstype and self.fstype not in FILESYSTEMS:
            raise InvalidSpec(
                "file system",
                self.fstype,
                "cannot be made here",
                remedy=f"one of {', '.join(FILESYSTEMS)}",
            )

    def _check_block(self) -> None:
        for what, value in (
            ("file system", self.fstype),
            ("format_if_blank", self.format_if_blank),
            ("mount options", ",".join(self.mount_options)),
        ):
            if value:
                raise InvalidSpec(
                    what, value, "a raw block device has none", remedy="drop it, or drop block"
                )

    def _check_credentials(self, address: IscsiUrl) -> None:
        if self.chap_user and address.user and self.chap_user != address.user:
            raise InvalidSpec(
                "chap_user", self.chap_user, f"differs from the URL's {address.user!r}"
            )
        for what, value, needed, has_it in (
            ("chap_user", self.chap_user, "chap_secret_file", self.chap_secret_file),
            ("chap_secret_file", self.chap_secret_file, "chap_user", self.chap_user_or_url),
            ("chap_peer_user", self.chap_peer_user, "chap_peer_secret_file",
             self.chap_peer_secret_file),
            ("chap_peer_secret_file", self.chap_peer_secret_file, "chap_secret_file",
             self.chap_secret_file),
        ):  # fmt: skip
            if value and not has_it:
                # Of a file not even the name is repeated: it may be the secret, in its place.
                told = None if what.endswith("_file") else value
                raise InvalidSpec(
                    what, told, f"is worth nothing without {needed}", remedy="give both"
                )
        for what, file in (
            ("chap_secret_file", self.chap_secret_file),
            ("chap_peer_secret_file", self.chap_peer_secret_file),
        ):
            if file and not PurePosixPath(file).is_absolute():
                raise InvalidSpec(
                    what,
                    None,
                    "is not an absolute path",
                    remedy="name a file of this host, such as /etc/iscsi-secret",
                )

    @property
    def chap_user_or_url(self) -> str:
        """Who we prove to be: ``chap_user``, or the user of the URL."""
        return self.chap_user or self.address.user or ""

    @property
    def address(self) -> IscsiUrl:
        """The URL, parsed."""
        return parse_url(self.url)

    @property
    def filesystem_to_make(self) -> str:
        """What a blank LUN is formatted with."""
        return self.fstype or DEFAULT_FILESYSTEM

    def session_settings(self) -> Settings:
        """The session's settings: the overrides, and ``on_disconnect`` as ``recovery_timeout``.

        Raises:
            InvalidSpec: an override that is unknown or out of range, or two answers to the
                question how long to wait.
        """
        timeout = recovery_timeout(self.on_disconnect)
        base = Settings(recovery_timeout=timeout)
        settings = settings_from_mapping(self.settings, base)
        if self.on_disconnect != "wait" and settings.recovery_timeout != timeout:
            raise InvalidSpec(
                "on_disconnect",
                self.on_disconnect,
                f"contradicts recovery_timeout {settings.recovery_timeout}",
                remedy="give one of the two",
            )
        return settings

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` takes back."""
        values = {spec_field.name: getattr(self, spec_field.name) for spec_field in fields(self)}
        values["mount_options"] = list(self.mount_options)
        values["settings"] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.settings.items()
        }
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VolumeSpec:
        """The spec of a state file or of a worker's input.

        Raises:
            InvalidSpec: an unknown field, or a value that cannot be.
        """
        known = {spec_field.name for spec_field in fields(cls)}
        for name in values:
            if name not in known:
                raise InvalidSpec(
                    "volume field",
                    name,
                    "is not known",
                    remedy=f"known are {', '.join(sorted(known))}",
                )
        if "url" not in values:
            raise InvalidSpec("volume field", "url", "is missing")
        arguments = dict(values)
        arguments["mount_options"] = tuple(values.get("mount_options", ()))
        return cls(**arguments)


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidSpec(what, value, "is not known", remedy=f"one of {', '.join(known)}")


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidSpec(
            "volume name", name[:32] + "...", f"is longer than {MAX_NAME_LENGTH} characters"
        )
    if not name.isprintable() or name != name.strip():
        raise InvalidSpec(
            "volume name",
            name,
            "has control characters, or space at an end",
            remedy="use letters, digits, '.', '-', '_'",
        )


def _check_mount_option(option: str) -> None:
    if not option or not option.isprintable() or "," in option or " " in option:
        raise InvalidSpec(
            "mount option",
            option,
            "is not one option",
            remedy="give each option by itself, without commas",
        )
    if option in ("ro", "rw"):
        raise InvalidSpec(
            "mount option",
            option,
            "is what read_only says for all layers",
            remedy="set read_only instead",
        )


def recovery_timeout(on_disconnect: str) -> float | None:
    """What ``on_disconnect`` says, as the setting of that name: seconds, None for ever.

    Raises:
        InvalidSpec: it is none of the three forms.
    """
    if on_disconnect == "wait":
        return None
    if on_disconnect == "fail-fast":
        return 0.0
    kind, _, seconds = on_disconnect.partition("=")
    if kind == "fail-after":
        try:
            value = float(seconds)
        except ValueError:
            value = -1.0
        if 0 < value <= 31536000:
            return value
    raise InvalidSpec(
        "on_disconnect",
        on_disconnect,
        "is not known",
        remedy="one of wait, fail-fast, fail-after=SECONDS",
    )
