# SPDX-License-Identifier: Apache-2.0
"""Which logical unit a volume is: written down at its first use, compared at every later one.

A name and an address say where to look; what stands there tomorrow may be another disk. So what
the unit said of itself (VPD 83h and 80h, block size) and, where the volume is mounted, the UUID of
its filesystem are kept in the state directory, across detaches and reboots, until somebody forgets
them. A volume that is only attached belongs, in its content, to whoever uses the device: there the
content is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusefs.volume.state import VolumeState, write_json
from pyscsi_init.errors import IdentityMismatch

_VERSION = 1

_WITNESS_KINDS = {"ext2": "ext", "ext3": "ext", "ext4": "ext", "xfs": "xfs", "btrfs": "btrfs"}


@dataclass(frozen=True, slots=True)
class Pin:
    """What is known of a volume's unit."""

    name: str
    key: str
    unit: str
    """One designator, for people."""
    block_size: int
    size_bytes: int
    witnesses: tuple[str, ...] = ()


def witness_of(fstype: str, uuid: str) -> str:
    """A filesystem's UUID as the initiator writes it among an identity's witnesses; empty for a
    kind that it does not know."""
    kind = _WITNESS_KINDS.get(fstype)
    return f"{kind}.{uuid.replace('-', '').lower()}" if kind and uuid else ""


def load_pin(path: Path, name: str) -> Pin | None:
    """The pin of volume ``name``; None where there is none.

    Raises:
        IdentityMismatch: there is a file that cannot be read: it is not known what it says, so
            nothing can be said to be the same.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] == _VERSION and values["name"] == name:
            return _pin(values)
        problem = f"version {values['version']!r} of {values['name']!r}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = repr(error)
    raise IdentityMismatch(
        f"which logical unit volume {name!r} is cannot be read from {path} ({problem}); "
        f"{_remedy(name)}"
    )


def _pin(values: Mapping[str, Any]) -> Pin:
    return Pin(
        str(values["name"]),
        str(values["key"]),
        str(values["unit"]),
        int(values["block_size"]),
        int(values["size_bytes"]),
        tuple(map(str, values["witnesses"])),
    )


def check_pin(pin: Pin | None, state: VolumeState, *, with_content: bool) -> None:
    """Compare the unit of a volume that has just logged in.

    Raises:
        IdentityMismatch: it is another one, or its content is.
    """
    identity = _identity(state)
    if pin is None or not identity:
        return
    difference = _difference(pin, identity, with_content=with_content)
    if difference:
        raise IdentityMismatch(
            f"volume {pin.name!r} is another logical unit than at its first use: {difference}; "
            f"nothing was written to it. {_remedy(pin.name)}"
        )


def _remedy(name: str) -> str:
    return (
        f"Look at the target; if the new one is meant, `pyscsi-init forget {name}`, "
        f"or use a volume of another name"
    )


def _difference(pin: Pin, identity: Mapping[str, Any], *, with_content: bool) -> str:
    if identity.get("key") != pin.key:
        return f"it was {pin.unit}, and {identity.get('name')} answers"
    if identity.get("block_size") != pin.block_size:
        return f"its block size was {pin.block_size}, and is {identity.get('block_size')}"
    size = int(identity.get("size_bytes") or 0)
    if size < pin.size_bytes:
        return f"it had {pin.size_bytes} bytes, and has {size}"
    now = set(identity.get("witnesses") or ())
    if with_content and pin.witnesses and not now & set(pin.witnesses):
        found = ", ".join(sorted(now)) or "nothing that is known"
        return f"it held {', '.join(pin.witnesses)}, and holds {found}"
    return ""


def write_pin(path: Path, state: VolumeState, content: str) -> None:
    """Pin the unit of a volume that came to rest; ``content`` is its filesystem's witness, empty
    for a volume that is not mounted. What was pinned before and is not seen now stays."""
    identity = _identity(state)
    if not identity.get("key"):
        return
    old = load_pin(path, state.name)
    witnesses: Sequence[str] = (content,) if content else (old.witnesses if old else ())
    new = Pin(
        state.name,
        str(identity["key"]),
        str(identity.get("name") or ""),
        int(identity["block_size"]),
        int(identity["size_bytes"]),
        tuple(witnesses),
    )
    if new != old:
        write_json(
            path,
            {
                "version": _VERSION,
                "name": new.name,
                "key": new.key,
                "unit": new.unit,
                "block_size": new.block_size,
                "size_bytes": new.size_bytes,
                "witnesses": list(new.witnesses),
            },
        )


def _identity(state: VolumeState) -> Mapping[str, Any]:
    identity = state.facts.get("identity")
    return identity if isinstance(identity, dict) else {}
