# SPDX-License-Identifier: Apache-2.0
"""Who uses a volume, and how many times: a multiset on disk, with the boot it belongs to.

The same user may come twice and then has to go twice. Counts survive every process of ours; they do
not survive a reboot, because no user does: then the file is worth nothing. Everything here blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fusefs.errors import VolumeError
from fusefs.volume.state import boot_id, write_json

_VERSION = 1


def load_users(path: Path, name: str) -> dict[str, int]:
    """User -> how many times; empty where there is no file, or where it is of another boot.

    Raises:
        VolumeError: there is one that cannot be read, or newer code wrote it: somebody may use the
            volume, so it must neither be taken down nor counted anew.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["boot_id"] != boot_id():
            return {}
        if values["version"] == _VERSION:
            users = {str(user): int(count) for user, count in values["users"].items()}
            return {user: count for user, count in users.items() if count > 0}
        problem = f"it has version {values['version']!r}, this program reads {_VERSION}"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = repr(error)
    raise VolumeError(
        f"who uses volume {name!r} cannot be read from {path} ({problem}), so the volume is left "
        f"as it is",
        remedy="run the version that wrote it, or remove the file when nothing uses the volume",
    )


def save_users(path: Path, name: str, users: Mapping[str, int]) -> None:
    """Write the users of ``name``; the file goes with the last of them."""
    if not users:
        path.unlink(missing_ok=True)
        return
    write_json(
        path, {"version": _VERSION, "name": name, "boot_id": boot_id(), "users": dict(users)}
    )
