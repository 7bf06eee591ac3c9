# SPDX-License-Identifier: Apache-2.0
"""What is refused before, or right after, the wire is touched: bad mount points, second
attachments.

Two attachments of one LUN in one node destroy its filesystem, and neither the name, nor the URL,
nor the portal tells that they are one: the logical unit itself does (VPD 83h and 80h). Some
targets make those from target and LUN number alone, so that two disks of two targets look alike;
there the UUIDs on the disks decide. Where nothing tells two disks apart they count as one: a
volume that is refused can be attached another way, one that is mounted twice is lost.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fusefs.errors import InvalidSpec
from fusefs.host import MountEntry
from fusefs.spec import VolumeSpec, volume_dir_name
from fusefs.volume.paths import Directories, VolumePaths
from fusefs.volume.state import StateUnreadable, VolumeState, boot_id, load_understood
from pyscsi_init.transport import Network


def check_directory(what: str, directory: str, mounts: Sequence[MountEntry]) -> str:
    """``directory`` as the kernel will name it, once it is fit to be mounted on. Blocks.

    Raises:
        InvalidSpec: it is not there, no directory, mounted on already, or not empty.
    """
    path = os.path.realpath(directory)
    # The table first: looking into a mount asks its filesystem, which may not answer.
    over = [entry for entry in mounts if entry.mountpoint == path]
    if over:
        raise InvalidSpec(
            what,
            directory,
            f"has {over[-1].source} mounted on it",
            remedy="unmount that, or choose another directory",
        )
    try:
        with os.scandir(path) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        raise InvalidSpec(what, directory, "does not exist", remedy=f"mkdir -p {path}") from None
    except NotADirectoryError:
        raise InvalidSpec(what, directory, "is not a directory") from None
    except OSError as error:
        raise InvalidSpec(what, directory, f"cannot be read ({error.strerror})") from error
    if first is not None:
        raise InvalidSpec(
            what,
            directory,
            f"is not empty (it holds {first.name!r})",
            remedy="its content would be hidden: move it away, or choose another directory",
        )
    return path


def check_file(what: str, file: str, mounts: Sequence[MountEntry]) -> str:
    """``file``, once a device node may be bound onto it. Blocks.

    Raises:
        InvalidSpec: it is mounted on already, no regular file, or not empty.
    """
    over = [entry for entry in mounts if entry.mountpoint == file]
    if over:
        raise InvalidSpec(
            what,
            file,
            f"has {over[-1].source} mounted on it",
            remedy="unmount that, or choose another file",
        )
    try:
        found = os.lstat(file)
    except OSError as error:
        raise InvalidSpec(what, file, f"cannot be looked at ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        raise InvalidSpec(
            what, file, "is not an empty file", remedy="choose another one, or one that is missing"
        )
    return file


def is_missing(path: str) -> bool:
    """Whether ``path`` has to be made; its directory must be there. Blocks.

    Raises:
        InvalidSpec: it cannot be made.
    """
    if os.path.lexists(path):
        return False
    parent = os.path.dirname(path)  # noqa: PTH120  (what is a mount point stays text)
    if not os.path.isdir(parent):  # noqa: PTH112
        raise InvalidSpec("target", path, "lies in no directory", remedy=f"mkdir -p {parent}")
    return True


def same_address(one: VolumeSpec, other: VolumeSpec) -> bool:
    """Whether two volumes name one LUN of one target through a portal they share. In two networks
    one address may be two targets'; only the units can tell."""
    networks = (Network.of(each.session_settings()) for each in (one, other))
    return _same_url(one, other) and len(set(networks)) == 1


def _same_url(one: VolumeSpec, other: VolumeSpec) -> bool:
    a, b = one.address, other.address
    return a.target == b.target and a.lun == b.lun and bool(set(a.portals) & set(b.portals))


def same_address_of(one: VolumeState, other: VolumeState) -> bool:
    """:func:`same_address` of two states: what can be said before the login."""
    return same_address(one.spec, other.spec)


def same_unit(one: VolumeState, other: VolumeState) -> bool:
    """Whether two attached volumes are one logical unit, as far as can be known."""
    if same_address(one.spec, other.spec):
        return True
    a, b = _identity(one), _identity(other)
    if not a.get("key") or not b.get("key"):
        return _same_url(one.spec, other.spec)
    if (a["key"], a.get("block_size")) != (b["key"], b.get("block_size")):
        return False
    addresses = one.spec.address, other.spec.address
    if addresses[0].target == addresses[1].target:
        return True
    witnesses = set(a.get("witnesses") or ()), set(b.get("witnesses") or ())
    if all(witnesses) and not witnesses[0] & witnesses[1]:
        return False
    return bool(a.get("size_bytes") == b.get("size_bytes"))


def same_key(one: VolumeState, other: VolumeState) -> bool:
    """Whether the units say the same of themselves, so that only a closer look tells them apart."""
    key = _identity(one).get("key")
    return bool(key) and key == _identity(other).get("key")


def volume_of_unit(
    directories: Directories, target: str | None, key: str, block_size: int
) -> str | None:
    """The volume of this node that has a logical unit, as its identity says; None where none has,
    or where we may not look. Blocks."""
    try:
        entries = sorted(directories.volumes.iterdir())
    except OSError:
        return None
    for entry in entries:
        try:
            state = load_understood(VolumePaths(entry).state)
        except StateUnreadable:
            continue
        if state is None or state.boot_id != boot_id():
            continue
        identity = _identity(state)
        same = (identity.get("key"), identity.get("block_size")) == (key, block_size)
        if same and state.spec.address.target == target:
            return state.name
    return None


def _identity(state: VolumeState) -> Mapping[str, Any]:
    identity = state.facts.get("identity")
    return identity if isinstance(identity, dict) else {}


def difference(old: VolumeSpec, new: VolumeSpec) -> str:
    """Which fields of two specs differ, in words; empty for none. ``take_over`` is none: it says
    how a volume is attached, not what it is."""
    a, b = old.to_json(), new.to_json()
    return ", ".join(
        f"{name} {a[name]!r}, not {b[name]!r}"
        for name in a
        if a[name] != b[name] and name != "take_over"  # that is said of one attach
    )


def resolve_parent(directory: str) -> str:
    """``directory`` with the links before its last component resolved. Blocks.

    The last component is not looked at: where it is a mount, that would ask its filesystem.
    """
    path = os.path.abspath(directory)  # noqa: PTH100  (Path.absolute keeps "..")
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name)  # noqa: PTH118


def name_of_directory(directory: Path) -> str:
    """The name of the volume whose directory this is; the directory's own where nobody knows."""
    try:
        values = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        name = values["spec"]["name"]
        if isinstance(name, str) and volume_dir_name(name) == directory.name:
            return name
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return unquote(directory.name)
