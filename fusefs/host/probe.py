# SPDX-License-Identifier: Apache-2.0
"""What a device holds, as libblkid and our own eyes see it.

libblkid's low-level probing (`blkid -p`) decides which filesystem it is, `wipefs` lists every
signature, and `blank` adds the ext backup superblocks neither knows. The traps are in the exit
status: 2 means "nothing was recognised" but also "could not be read", so the device is read first;
8 means that several signatures contradict each other, and then nothing may be mounted or made.

Formatting is allowed by one function only, `assert_formattable`, and it believes no tool: a device
must carry no signature and read as zeros.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from fusefs.errors import CallFailed, CommandFailed, NotBlank
from fusefs.host import format_mark
from fusefs.host.blank import DirectReader, check_blank, find_ext_backups
from fusefs.host.blocking import bounded
from fusefs.host.records import BlankCheck, FormatMark, Probe, Signature
from fusefs.host.run import require_program, run

_FOUND, _NOTHING, _AMBIVALENT = 0, 2, 8
_BTRFS_SUPERBLOCK = 65536
# Offset and length: s_feature_incompat of struct ext4_super_block, which lies at byte 1024, and
# log_root of struct btrfs_super_block.
_EXT_INCOMPATIBLE = (1024 + 0x60, 4)
_EXT_RECOVER = 0x4
_BTRFS_LOG_ROOT = (0x60, 8)
_XFS_IN_PROGRESS = (126, 1)  # sb_inprogress
_ESCAPED = re.compile(r"\\(.)")


def parse_export(text: str) -> dict[str, str]:
    """`blkid -o export`: KEY=value, characters that a shell would take up escaped."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key: _ESCAPED.sub(r"\1", value) for key, _, value in pairs}


def parse_wipefs(text: str) -> list[Signature]:
    """`wipefs --json`, with every column we ask for."""
    if not text.strip():
        return []
    entries: list[dict[str, Any]] = json.loads(text)["signatures"]
    return [
        Signature(
            type=str(entry["type"]),
            usage=str(entry.get("usage") or "other"),
            offset=int(str(entry["offset"]), 0),
            uuid=str(entry.get("uuid") or ""),
            label=str(entry.get("label") or ""),
        )
        for entry in entries
    ]


def probe(device: str, *, timeout_s: float) -> Probe:
    """What is recognised on ``device``; see ``Host.probe``."""
    seen = bounded(f"reading {device}", timeout_s, lambda: _read(device))
    blkid = run(
        (require_program("blkid", "util-linux"), "-p", "-o", "export", device),
        timeout_s=timeout_s,
        accept=(_FOUND, _NOTHING, _AMBIVALENT),
        what=f"probing {device}",
    )
    wipefs = run(
        (
            require_program("wipefs", "util-linux"),
            "--no-act",
            "--json",
            "--output",
            "DEVICE,OFFSET,TYPE,UUID,LABEL,USAGE",
            device,
        ),
        timeout_s=timeout_s,
        what=f"looking for signatures on {device}",
    )
    try:
        signatures = parse_wipefs(wipefs.stdout)
    except (ValueError, KeyError) as fault:
        raise CommandFailed(
            wipefs.command, exit_status=0, output=wipefs.output, what="its JSON cannot be read"
        ) from fault
    values = parse_export(blkid.stdout) if blkid.exit_status == _FOUND else {}
    # Beside a filesystem they belong to it, or are older than it.
    backups = [] if values.get("USAGE") == "filesystem" else seen.backups
    found = Probe(
        device=device,
        fstype=values.get("TYPE", ""),
        uuid=values.get("UUID", ""),
        label=values.get("LABEL", ""),
        usage=values.get("USAGE", ""),
        partition_table=values.get("PTTYPE", ""),
        ambivalent=blkid.exit_status == _AMBIVALENT,
        signatures=(*signatures, *backups),
        log_pending=values.get("TYPE", "") in seen.pending,
        in_progress=values.get("TYPE", "") == "xfs" and seen.xfs_in_progress,
        mark=seen.mark,
    )
    if format_mark.unfinished(device, found, timeout_s=timeout_s):
        return replace(found, unfinished=True)
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the programs do not tell."""

    backups: list[Signature]
    pending: set[str]
    """The file systems whose log would be pending if it is one of them."""
    xfs_in_progress: bool
    """If it is XFS."""
    mark: FormatMark | None


def _read(device: str) -> _Seen:
    with DirectReader(device) as reader:
        head = reader.read(0, 4096)  # raises where the device cannot be read at all
        btrfs = reader.read(_BTRFS_SUPERBLOCK, 4096) if reader.size > _BTRFS_SUPERBLOCK else b""
        pending = set()
        if _number(head, *_EXT_INCOMPATIBLE) & _EXT_RECOVER:
            pending |= {"ext3", "ext4"}
        if _number(btrfs, *_BTRFS_LOG_ROOT):
            pending.add("btrfs")
        in_progress = bool(_number(head, *_XFS_IN_PROGRESS))
        try:
            mark, _ = format_mark.read(reader)
        except CallFailed:
            mark = None  # a place of it cannot be read: no reason not to mount what is there
        return _Seen(find_ext_backups(reader), pending, in_progress, mark)


def _number(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset : offset + length], "little")


def read_blank(device: str, *, timeout_s: float) -> BlankCheck:
    """Whether ``device`` reads as zeros; see ``Host.read_blank``."""

    def call() -> BlankCheck:
        with DirectReader(device, exclusive=True) as reader:
            return check_blank(reader)

    return bounded(f"reading {device}", timeout_s, call)


def assert_formattable(device: str, *, timeout_s: float) -> None:
    """That nothing is lost by formatting; see ``Host.assert_formattable``."""
    found = probe(device, timeout_s=timeout_s)
    if not found.empty:
        offsets = [one.offset for one in found.signatures if one.offset is not None]
        raise NotBlank(device, found.found, offset=min(offsets, default=None))
    check = read_blank(device, timeout_s=timeout_s)
    if not check.blank:
        raise NotBlank(device, "data without a known signature", offset=check.first_nonzero)
