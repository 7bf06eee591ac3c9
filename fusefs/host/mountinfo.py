# SPDX-License-Identifier: Apache-2.0
"""The mount table of a process: proc_pid_mountinfo(5) as records.

The only source about mounts that never blocks: statfs and stat on a mount point ask its filesystem,
and one whose server is dead does not answer. Parsing is apart from mounting, because the table is
read far more often than it is changed, and by those who may not change it.
"""

from __future__ import annotations

import re
from pathlib import Path

from fusefs.host.records import MountEntry

_OCTAL = re.compile(r"\\([0-7]{3})")


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes (space, tab, newline, backslash, number sign)."""
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), text)


def parse(text: str) -> list[MountEntry]:
    """Every line of a mountinfo file, in its order: a later mount lies over an earlier one."""
    return [_parse_line(line) for line in text.split("\n") if line]


def _parse_line(line: str) -> MountEntry:
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    left, _, right = line.partition(" - ")
    mount_id, parent_id, device, root, mountpoint, options, *optional = left.split(" ")
    fstype, source, *rest = right.split(" ")
    major, _, minor = device.partition(":")
    tags = dict(tag.partition(":")[::2] for tag in optional)
    return MountEntry(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        major=int(major),
        minor=int(minor),
        root=unescape(root),
        mountpoint=unescape(mountpoint),
        options=tuple(options.split(",")),
        fstype=unescape(fstype),
        source=unescape(source),
        super_options=tuple(rest[0].split(",")) if rest else (),
        peer_group=int(tags["shared"]) if "shared" in tags else None,
        master_group=int(tags["master"]) if "master" in tags else None,
        unbindable="unbindable" in tags,
    )


def read(pid: int | str = "self") -> list[MountEntry]:
    """The mount table that process ``pid`` sees.

    Raises:
        OSError: there is no such process (any more), or it may not be read.
    """
    raw = Path(f"/proc/{pid}/mountinfo").read_bytes()
    return parse(raw.decode("utf-8", "surrogateescape"))


def find(mountpoint: str, table: list[MountEntry] | None = None) -> MountEntry | None:
    """The mount one would step into at ``mountpoint``: the last one there, or None."""
    entries = read() if table is None else table
    wanted = mountpoint.rstrip("/") or "/"
    return next((entry for entry in reversed(entries) if entry.mountpoint == wanted), None)
