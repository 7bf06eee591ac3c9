# SPDX-License-Identifier: Apache-2.0
"""Which volumes this node has: read from their directories, each time anew. All of it blocks."""

from __future__ import annotations

import os

from fusefs.errors import NoSuchVolume
from fusefs.volume.checks import name_of_directory, resolve_parent
from fusefs.volume.paths import Directories
from fusefs.volume.state import StateUnreadable, VolumeState, load_understood, not_for_others


def names(directories: Directories) -> list[str]:
    """Every volume, by name.

    Raises:
        NotAllowed: they belong to another user.
    """
    try:
        entries = sorted(directories.volumes.iterdir())
    except FileNotFoundError:
        return []
    except PermissionError as fault:
        raise not_for_others(directories.volumes) from fault
    return [name_of_directory(entry) for entry in entries if entry.is_dir()]


def states(directories: Directories) -> list[VolumeState]:
    """The state of every volume that has one, also of one that newer code wrote, if that says at
    least where its LUN is."""
    return [state for _, state in _all(directories) if isinstance(state, VolumeState)]


def not_understood(directories: Directories) -> dict[str, str]:
    """Every other volume that has a state: name, and what is wrong with it."""
    found = _all(directories)
    return {name: str(state) for name, state in found if isinstance(state, StateUnreadable)}


def _all(directories: Directories) -> list[tuple[str, VolumeState | StateUnreadable | None]]:
    found: list[tuple[str, VolumeState | StateUnreadable | None]] = []
    for name in names(directories):
        try:
            found.append((name, load_understood(directories.volume(name).state)))
        except StateUnreadable as problem:
            found.append((name, problem))
    return found


def resolve(directories: Directories, name_or_dir: str) -> str:
    """The name of a volume, given that or its mount point.

    Raises:
        NoSuchVolume: neither.
    """
    if name_or_dir in names(directories):
        return name_or_dir
    path = resolve_parent(name_or_dir)
    real = os.path.realpath(path)
    for state in states(directories):
        if state.mountpoint in (path, real):
            return state.name
    raise NoSuchVolume(name_or_dir)
