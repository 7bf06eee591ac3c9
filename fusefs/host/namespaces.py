# SPDX-License-Identifier: Apache-2.0
"""What this process sees of namespaces: network namespaces with a name, and whose root it is."""

from __future__ import annotations

from pathlib import Path

from fusefs.host import mountinfo

NAMED = "/run/netns"
"""Where iproute2 keeps those that have a name."""
_NSFS = "nsfs"
_EVERYBODY = ["0", "0", "4294967295"]


def named_networks() -> dict[str, bool] | None:
    """Name -> whether it is a namespace here; None where there is no directory for them.

    Each is a mount over an empty file. Where mounts made outside do not come into a container, only
    the file is to be seen.
    """
    try:
        names = sorted(path.name for path in Path(NAMED).iterdir())
    except OSError:
        return None
    mounted = {entry.mountpoint for entry in mountinfo.read() if entry.fstype == _NSFS}
    return {name: f"{NAMED}/{name}" in mounted for name in names}


def is_initial_user() -> bool:
    """Whether root here is root of the machine, and not of a user namespace."""
    try:
        return Path("/proc/self/uid_map").read_text().split() == _EVERYBODY
    except OSError:
        return True
