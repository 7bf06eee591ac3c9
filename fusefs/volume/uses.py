# SPDX-License-Identifier: Apache-2.0
"""Who uses a volume, and how many times: a multiset on disk, with the boot it belongs to.

The same user may come twice and then has to go twice. Counts survive every process of ours; they do
not survive a reboot, because no user does: then the file is worth nothing. Everything here blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fusefs.volume.state import boot_id, write_json

_VERSION = 1


def load_users(path: Path) -> dict[str, int]:
    """User -> how many times; empty where nobody is known, or where it was in another boot."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != _VERSION or values["boot_id"] != boot_id():
            return {}
        users = {str(user): int(count) for user, count in values["users"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {user: count for user, count in users.items() if count > 0}


def save_users(path: Path, name: str, users: Mapping[str, int]) -> None:
    """Write the users of ``name``; the file goes with the last of them."""
    if not users:
        path.unlink(missing_ok=True)
        return
    write_json(
        path, {"version": _VERSION, "name": name, "boot_id": boot_id(), "users": dict(users)}
    )
