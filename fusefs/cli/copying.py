# SPDX-License-Identifier: Apache-2.0
"""Copying: many chunks in flight, hashed in order, zeros never sent as data, memory bounded.

A few workers take chunks from one list in order. A worker reads its chunk, waits until all chunks
before it have been hashed, hashes its own, and writes it; so reads and writes overlap, and there
are never more buffers than workers. It knows no command line and no terminal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anyio
import anyio.to_thread

from fusefs.cli.endpoints import Destination, Source

CHUNK_BYTES = 1 << 20
HOLE_BYTES = 64 << 20
"""Zeros that are dealt with in one step: small enough for progress and for Ctrl-C."""

_ZEROS = bytes(CHUNK_BYTES)
Progress = Callable[[int], None]


@dataclass(slots=True)
class Copied:
    """What a copy came to."""

    size_bytes: int = 0
    data_bytes: int = 0
    """Written as data."""
    zero_bytes: int = 0
    """Left as holes, or written as zeros without their bytes."""
    sha256: str = ""


@dataclass(slots=True)
class _Chunk:
    index: int
    offset: int
    length: int
    data: bool


class _Turns:
    """Lets the owners of numbers pass in the order of their numbers."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, anyio.Event] = {}

    async def wait(self, index: int) -> None:
        if index != self._next:
            event = self._waiting[index] = anyio.Event()
            await event.wait()

    def done(self) -> None:
        self._next += 1
        event = self._waiting.pop(self._next, None)
        if event is not None:
            event.set()


async def copy(
    source: Source,
    destination: Destination,
    *,
    depth: int,
    progress: Progress,
    checksum: bool = True,
) -> Copied:
    """Copy all of ``source``; ``destination`` has been prepared and is finished by the caller.

    Raises:
        IscsiError, OSError: a read or a write failed; the others in flight were cancelled.

    Cancellation: everything in flight has ended when it is raised.
    """
    copied = Copied(size_bytes=source.size)
    digest = hashlib.sha256() if checksum else None
    chunks, turns = _chunks(source), _Turns()

    async def work() -> None:
        buffer = bytearray(CHUNK_BYTES)
        for chunk in chunks:
            if chunk.data:
                if len(buffer) != chunk.length:
                    buffer = bytearray(chunk.length)
                await source.read_into(chunk.offset, buffer)
            zero = not chunk.data or buffer == _ZEROS[: chunk.length]
            if digest is not None:
                await turns.wait(chunk.index)
                if zero:
                    await anyio.to_thread.run_sync(_hash_zeros, digest, chunk.length)
                else:
                    await anyio.to_thread.run_sync(digest.update, buffer)
                turns.done()
            if not zero:
                await destination.write(chunk.offset, buffer)
                copied.data_bytes += chunk.length
            else:
                if not destination.starts_as_zeros:
                    await destination.write_zeroes(chunk.offset, chunk.length)
                copied.zero_bytes += chunk.length
            progress(chunk.length)

    try:
        async with anyio.create_task_group() as group:
            for _ in range(depth):
                group.start_soon(work)
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    if digest is not None:
        copied.sha256 = digest.hexdigest()
    return copied


def _hash_zeros(digest: hashlib._Hash, length: int) -> None:
    while length:
        part = min(length, len(_ZEROS))
        digest.update(_ZEROS if part == len(_ZEROS) else _ZEROS[:part])
        length -= part


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _chunks(source: Source) -> Iterator[_Chunk]:
    index = 0
    for start, size, data in source.extents():
        offset, end = start, start + size
        while offset < end:
            step = CHUNK_BYTES if data else HOLE_BYTES
            # Cut at multiples of the step, so that only extents' own ends are crooked.
            length = min(end - offset, step - offset % step)
            yield _Chunk(index, offset, length, data)
            index += 1
            offset += length
