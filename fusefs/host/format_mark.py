# SPDX-License-Identifier: Apache-2.0
"""The mark of a file system that is being made: what tells mkfs that was cut off from data.

A program that is killed inside mkfs leaves a device that is neither blank nor a file system, and
nobody can see by the rest alone whose it was. So before mkfs the device, which was read as blank,
gets a mark: ten blocks, spread over it, each with a random UUID. mkfs gives the same UUID to the
file system, and writes so little of a device that most of the blocks outlive it; what is left of
them is taken away when it has ended, and before anything is mounted.

A device is the work of mkfs that was cut off (:func:`unfinished`) where

- at least half of the blocks are there, or all else reads as blank;
- if it is ext4, whose head is zero also when it was lost: what its backup superblocks tell of was
  never used (host/ext_unused.py), and eight of the blocks are there; a device that is too small for
  backups has nothing that could tell, so there all else is blank;
- no signature is recognised, but those of the same kind of file system with the mark's UUID;
- the first KiB is zero, where boot sectors, partition tables and most other things begin, or the
  superblock of XFS with that UUID.

A disk that was overwritten since has no blocks; one that was formatted, partitioned or given to a
volume manager has a signature. Who may act on it is not decided here (volume/formatting.py).

The blocks lie where :mod:`fusefs.host.blank` looks, so a device with a mark is not blank.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import uuid
from collections.abc import Iterator

from fusefs.errors import CallFailed, NotBlank
from fusefs.host.blank import SAMPLE_BYTES, DirectReader, mark_places, open_device, positions
from fusefs.host.blocking import bounded
from fusefs.host.ext_unused import unused
from fusefs.host.records import FormatMark, Probe

_MAGIC = b"pyscsi-init: a file system is being made here\n"
_BLOCK = 512
"""What a mark has: a write of it lands as a whole or not at all."""

_ENOUGH = 5
"""Of ten blocks; mkfs was seen to overwrite two at the most."""
_ENOUGH_WITH_BACKUPS = 8
_SMALLEST_WITH_BACKUPS = 129 << 20
"""Bytes. ext4 with blocks of 4 KiB has the first backup at 128 MiB."""
_XFS = (b"XFSB", 0, 32)
"""Its magic, where that stands, and where the UUID does."""
_HEAD = 1024
_CHUNK = 1 << 20


def encode(mark: FormatMark) -> bytes:
    """One block of a mark."""
    text = json.dumps({"uuid": mark.uuid, "fstype": mark.fstype, "node": mark.node[:64]}).encode()
    body = _MAGIC + len(text).to_bytes(2, "big") + text
    return (body + hashlib.sha256(body).digest()).ljust(_BLOCK, b"\0")


def decode(block: bytes) -> FormatMark | None:
    """The counterpart of :func:`encode`; None for anything else."""
    if not block.startswith(_MAGIC):
        return None
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(block[start - 2 : start], "big")
    if hashlib.sha256(block[:end]).digest() != block[end : end + 32]:
        return None
    try:
        values = json.loads(block[start:end])
        name = str(uuid.UUID(values["uuid"]))
        return FormatMark(name, str(values["fstype"]), str(values["node"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read(reader: DirectReader) -> tuple[FormatMark | None, frozenset[int]]:
    """The mark on a device and where its blocks are; None where there is none, or two."""
    found = {at: decode(reader.read(at, _BLOCK)) for at in mark_places(reader.size)}
    there = {at: mark for at, mark in found.items() if mark is not None}
    if len({mark.uuid for mark in there.values()}) != 1:
        return None, frozenset()
    return there[min(there)], frozenset(there)


def unfinished(device: str, found: Probe, *, timeout_s: float) -> bool:
    """Whether what is on a device that has a mark is the work of mkfs that was cut off."""
    mark = found.mark
    if mark is None or found.is_filesystem or found.ambivalent or found.partition_table:
        return False
    for one in found.signatures:
        same_kind = one.type == mark.fstype or (one.usage == "backup" and mark.fstype == "ext4")
        if not same_kind or one.uuid != mark.uuid:
            return False

    backups = [one.offset for one in found.signatures if one.usage == "backup"]

    def call() -> bool:
        with DirectReader(device) as reader:
            _, blocks = read(reader)
            head = reader.read(0, _HEAD)
            if head.strip(b"\0") and not _is_xfs(head, mark):
                return False
            if backups:
                if len(blocks) < _ENOUGH_WITH_BACKUPS:
                    return False
                return all(at is not None and unused(reader, at) for at in backups)
            small = mark.fstype == "ext4" and reader.size < _SMALLEST_WITH_BACKUPS
            enough = len(blocks) >= _ENOUGH and not small
            return enough or _rest_is_blank(reader, blocks)

    return bounded(f"reading {device}", timeout_s, call)


def _is_xfs(head: bytes, mark: FormatMark) -> bool:
    magic, at, uuid_at = _XFS
    found = head[uuid_at : uuid_at + 16].hex()
    return head.startswith(magic, at) and found == mark.uuid.replace("-", "")


def _rest(size: int, blocks: frozenset[int]) -> Iterator[tuple[int, int]]:
    """What must be zero on a blank device (:func:`positions`), without the blocks of a mark."""
    for start, length in positions(size):
        end = start + length
        for block in sorted(blocks):
            if block < end and start < block + SAMPLE_BYTES:
                if start < block:
                    yield start, block - start
                start = block + SAMPLE_BYTES
        if start < end:
            yield start, end - start


def _rest_is_blank(reader: DirectReader, blocks: frozenset[int]) -> bool:
    return not any(
        reader.read(offset, length).strip(b"\0") for offset, length in _rest(reader.size, blocks)
    )


def find(device: str, *, timeout_s: float) -> FormatMark | None:
    """The mark on a device; see ``Host.read_format_mark``."""

    def call() -> FormatMark | None:
        with DirectReader(device) as reader:
            return read(reader)[0]

    return bounded(f"reading the mark on {device}", timeout_s, call)


class _Writer:
    """Writes to a block device that nobody else has, past the page cache."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._fd = open_device(device, os.O_RDWR | os.O_DIRECT | os.O_EXCL | os.O_CLOEXEC)
        self._buffer = mmap.mmap(-1, _CHUNK)  # which is aligned

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._buffer.close()

    def write(self, offset: int, data: bytes) -> None:
        """``data`` at ``offset``; both in blocks of the device."""
        for start in range(0, len(data), _CHUNK):
            part = data[start : start + _CHUNK]
            self._buffer[: len(part)] = part
            try:
                done = os.pwrite(self._fd, memoryview(self._buffer)[: len(part)], offset + start)
            except OSError as fault:
                raise self._failed("write", fault.errno) from fault
            if done != len(part):
                raise self._failed("write", errno.EIO)

    def flush(self) -> None:
        """What was written, by whomever, is on the medium."""
        try:
            os.fsync(self._fd)
        except OSError as fault:
            raise self._failed("fsync", fault.errno) from fault

    def _failed(self, call: str, number: int | None) -> CallFailed:
        return CallFailed(call, self._device, number or 0, remedy="the target failed a write")


def write(device: str, mark: FormatMark, *, timeout_s: float) -> None:
    """Put the mark on a device; see ``Host.write_format_mark``."""
    block = encode(mark).ljust(SAMPLE_BYTES, b"\0")

    def call() -> None:
        with DirectReader(device) as reader, _Writer(device) as writer:
            for at in mark_places(reader.size):
                writer.write(at, block)
            writer.flush()

    bounded(f"marking {device}", timeout_s, call)


def remove(device: str, mark: FormatMark, *, timeout_s: float) -> None:
    """Take what is left of the mark away; see ``Host.remove_format_mark``."""

    def call() -> None:
        with DirectReader(device) as reader, _Writer(device) as writer:
            writer.flush()  # what mkfs wrote is there before anything says that it has ended
            there, blocks = read(reader)
            if there is not None and there.uuid == mark.uuid:
                for at in sorted(blocks):
                    # What stands behind it may be mkfs' work, in blocks smaller than these.
                    rest = reader.read(at, SAMPLE_BYTES)[_BLOCK:]
                    writer.write(at, bytes(_BLOCK) + rest)
                writer.flush()

    bounded(f"removing the mark on {device}", timeout_s, call)


def wipe(device: str, mark: FormatMark, *, timeout_s: float) -> None:
    """Make the rest of a marked device read as blank; see ``Host.wipe_unfinished``."""

    def call() -> None:
        with DirectReader(device) as reader, _Writer(device) as writer:
            there, blocks = read(reader)
            if there is None or there.uuid != mark.uuid:
                raise NotBlank(device, "another mark than a moment ago")
            # The mark stays all the time, so this may be cut off too; and the head goes last, which
            # tells that what backup superblocks stand for was never used.
            for offset, length in reversed(list(_rest(reader.size, blocks))):
                # mkfs wrote in its own blocks, and some positions lie within one of the device's.
                start = offset // SAMPLE_BYTES * SAMPLE_BYTES
                end = min(-(-(offset + length) // SAMPLE_BYTES) * SAMPLE_BYTES, reader.size)
                for block in range(start, end, _CHUNK):
                    _zero(writer, block, min(_CHUNK, end - block), blocks)
            writer.flush()
            if not _rest_is_blank(reader, blocks):
                raise NotBlank(device, "data that was written while it was wiped")

    bounded(f"wiping {device}", timeout_s, call)


def _zero(writer: _Writer, start: int, length: int, blocks: frozenset[int]) -> None:
    """Zeros there, but not over a block of the mark."""
    end = start + length
    for block in sorted(blocks):
        if start <= block < end:
            if start < block:
                writer.write(start, bytes(block - start))
            start = block + SAMPLE_BYTES
    if start < end:
        writer.write(start, bytes(end - start))
