# SPDX-License-Identifier: Apache-2.0
"""Which volumes this node has: read from their directories, each time anew. All of it blocks."""

from __future__ import annotations

import os

from fusefs.errors import NoSuchVolume, NotAllowed
from fusefs.volume.checks import name_of_directory, resolve_parent
from fusefs.volume.paths import Directories
from fusefs.volume.state import StateUnreadable, VolumeState, load_state


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
        raise NotAllowed(
            "look at the volumes of this host",
            f"{directories.volumes} is root's alone",
            remedy="run it as root",
        ) from fault
    return [name_of_directory(entry) for entry in entries if entry.is_dir()]


def states(directories: Directories) -> list[VolumeState]:
    """The state of every volume that has one that can be read."""
    found = []
    for name in names(directories):
        try:
            state = load_state(directories.volume(name).state)
        except StateUnreadable:
            continue
        if state is not None:
            found.append(state)
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
