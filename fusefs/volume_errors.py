# SPDX-License-Identifier: Apache-2.0
"""Errors of volumes that are known by a definition and counted by their users.

They hang in the tree of ``fusefs.errors``, directly below its root::

    VolumeError
    └── VolumeInUse    it cannot be removed, because somebody uses it (who)
"""

from __future__ import annotations

from collections.abc import Sequence

from fusefs.errors import VolumeError

_SHOWN = 3
"""Users by name in a message; a container's is 64 digits long."""


class VolumeInUse(VolumeError):
    """A volume cannot be removed, because it is in use."""

    def __init__(self, name: str, users: Sequence[str], *, reason: str = "") -> None:
        self.name = name
        self.users = tuple(users)
        more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
        who = reason or f"used by {', '.join(users[:_SHOWN])}{more}"
        super().__init__(
            f"volume {name!r} is in use: {who}", remedy="end what uses it, then remove it"
        )
