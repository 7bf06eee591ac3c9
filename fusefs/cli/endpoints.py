# SPDX-License-Identifier: Apache-2.0
"""The two ends of a copy: a file, a block device, or a LUN.

A source says how long it is and where it surely holds nothing but zeros; a destination takes data
and zeros at offsets, in any order. Files are read and written in worker threads, LUNs on the loop.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio.to_thread

from fusefs.cli.exit_codes import TooSmall
from fusefs.cli.options import LoginOptions
from fusefs.cli.output import StepCallback, size_text
from fusefs.errors import AlreadyAttached, ContentError
from pyscsi_init import LogicalUnit, open_lun, parse_url
from pyscsi_init.device import require_writable
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.url import SCHEME, IscsiUrl

BLANK_BYTES = 1 << 20
"""How much of each end of a LUN must read as zeros for it to count as blank."""

_ZEROS = bytes(BLANK_BYTES)
Extent = tuple[int, int, bool]
"""Offset, length, and whether there may be data."""


class Source(ABC):
    """Where the bytes come from."""

    what: str
    size: int

    def extents(self) -> Iterator[Extent]:
        """The whole of it in order; what is said to hold no data reads as zeros."""
        yield 0, self.size, True

    @abstractmethod
    async def read_into(self, offset: int, buffer: bytearray) -> None:
        """Fill ``buffer``."""


class Destination(ABC):
    """Where the bytes go. What was not written when :meth:`finish` returns is undefined, unless
    ``starts_as_zeros``."""

    what: str
    starts_as_zeros = False

    @abstractmethod
    async def prepare(self, size: int) -> None:
        """Make room for ``size`` bytes.

        Raises:
            TooSmall: there is none.
        """

    @abstractmethod
    async def write(self, offset: int, data: bytearray) -> None:
        """Write ``data``."""

    @abstractmethod
    async def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range read as zeros."""

    @abstractmethod
    async def finish(self) -> None:
        """Everything is on stable storage on return."""


class FileSource(Source):
    """A file or a block device."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.what = path
        self.descriptor = descriptor
        self.size = os.lseek(descriptor, 0, os.SEEK_END)
        self._sparse = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def extents(self) -> Iterator[Extent]:
        """Data and holes, as the file system tells them."""
        offset = 0
        while self._sparse and offset < self.size:
            try:
                data = os.lseek(self.descriptor, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    self._sparse = False  # this file system does not know
                    break
                data = self.size
            if data > offset:
                yield offset, min(data, self.size) - offset, False
            if data >= self.size:
                return
            offset = min(os.lseek(self.descriptor, data, os.SEEK_HOLE), self.size)
            yield data, offset - data, True
        if offset < self.size:
            yield offset, self.size - offset, True

    async def read_into(self, offset: int, buffer: bytearray) -> None:
        await anyio.to_thread.run_sync(self._read, offset, buffer)

    def _read(self, offset: int, buffer: bytearray) -> None:
        with memoryview(buffer) as view:
            done = 0
            while done < len(view):
                count = os.preadv(self.descriptor, [view[done:]], offset + done)
                if not count:
                    raise OSError(errno.EIO, "it became shorter while it was read", self.what)
                done += count


class FileDestination(Destination):
    """A file, made or overwritten, or a block device."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.what = path
        self.descriptor = descriptor
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self.starts_as_zeros = self._regular

    async def prepare(self, size: int) -> None:
        await anyio.to_thread.run_sync(self._prepare, size)

    def _prepare(self, size: int) -> None:
        if self._regular:
            os.ftruncate(self.descriptor, 0)
            os.ftruncate(self.descriptor, size)
            return
        check_room(self.what, os.lseek(self.descriptor, 0, os.SEEK_END), size)

    async def write(self, offset: int, data: bytearray) -> None:
        await anyio.to_thread.run_sync(self._write, offset, data)

    def _write(self, offset: int, data: bytearray | bytes) -> None:
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.pwritev(self.descriptor, [view[done:]], offset + done)

    async def write_zeroes(self, offset: int, length: int) -> None:
        if self._regular:
            return  # the file was emptied: what is not written is a hole
        while length:
            part = min(length, len(_ZEROS))
            await anyio.to_thread.run_sync(self._write, offset, _ZEROS[:part])
            offset, length = offset + part, length - part

    async def finish(self) -> None:
        await anyio.to_thread.run_sync(os.fsync, self.descriptor)


class LunSource(Source):
    """A LUN."""

    def __init__(self, what: str, unit: LogicalUnit) -> None:
        self.what = what
        self.unit = unit
        self.size = unit.size_bytes

    async def read_into(self, offset: int, buffer: bytearray) -> None:
        await self.unit.read_into(offset, buffer)


class LunDestination(Destination):
    """A LUN."""

    def __init__(self, what: str, unit: LogicalUnit, *, overwrite: bool) -> None:
        self.what = what
        self.unit = unit
        self._overwrite = overwrite

    async def prepare(self, size: int) -> None:
        unit = self.unit
        check_room(self.what, unit.size_bytes, size)
        require_writable(unit)
        holder = await anyio.to_thread.run_sync(volume_that_has, unit)
        if holder is not None:
            raise AlreadyAttached(self.what, other=holder)
        if self._overwrite:
            return
        length = min(BLANK_BYTES, unit.size_bytes)
        for offset in (0, unit.size_bytes - length):
            data = await unit.read(offset, length)
            if data != _ZEROS[:length]:
                first = offset + len(data) - len(data.lstrip(b"\0"))
                raise ContentError(
                    self.what,
                    f"{self.what} is not blank: there is data at byte {first}",
                    remedy="look what it is, and give --overwrite if it is not needed",
                )

    async def write(self, offset: int, data: bytearray) -> None:
        await self.unit.write(offset, data)

    async def write_zeroes(self, offset: int, length: int) -> None:
        await self.unit.write_zeroes(offset, length)

    async def finish(self) -> None:
        await self.unit.flush()


def volume_that_has(unit: LogicalUnit) -> str | None:
    """The volume of this host that has the unit attached: to write over it would destroy it."""
    from fusefs.volume.checks import volume_of_unit
    from fusefs.volume.paths import Directories

    identity = unit.identity
    return volume_of_unit(
        Directories(None, None), unit.session.target_name, identity.key, identity.block_size
    )


def check_room(what: str, there: int, needed: int) -> None:
    """Raise TooSmall unless ``needed`` bytes fit."""
    if there < needed:
        raise TooSmall(
            f"{what} has {there} bytes ({size_text(there)}), and the source {needed} "
            f"({size_text(needed)}): it is too small"
        )


def is_url(text: str) -> bool:
    """Whether an argument names a LUN rather than a file."""
    return text[: len(SCHEME)].lower() == SCHEME


def lun_url(text: str) -> IscsiUrl:
    """A URL that names a LUN.

    Raises:
        ConfigurationError: it names none, or cannot be read.
    """
    url = parse_url(text)
    if url.lun is None:
        raise ConfigurationError("URL", str(url), "names no LUN", "add /NUMBER; `luns` lists them")
    return url


@contextlib.asynccontextmanager
async def open_source(text: str, login: LoginOptions, step: StepCallback) -> AsyncIterator[Source]:
    """The source that an argument names."""
    if is_url(text):
        url = lun_url(text)
        step(f"log in to {url.target}")
        async with _open_lun(url, login, read_only=True) as unit:
            yield LunSource(str(url), unit)
        return
    descriptor = await anyio.to_thread.run_sync(_open, text, os.O_RDONLY)
    try:
        yield FileSource(text, descriptor)
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def open_destination(
    text: str, login: LoginOptions, source: Source, step: StepCallback, *, overwrite: bool
) -> AsyncIterator[Destination]:
    """The destination that an argument names; a file that was made is removed after a failure.

    Raises:
        ConfigurationError: it is the source itself, or a file that is there already.
    """
    if is_url(text):
        url = lun_url(text)
        step(f"log in to {url.target}")
        async with _open_lun(url, login, read_only=False) as unit:
            if isinstance(source, LunSource) and _same_unit(source.unit, unit):
                raise ConfigurationError("destination", str(url), "is the source itself")
            yield LunDestination(str(url), unit, overwrite=overwrite)
        return
    descriptor, made = await anyio.to_thread.run_sync(_open_to_write, text, source, overwrite)
    complete = False
    try:
        yield FileDestination(text, descriptor)
        complete = True
    finally:
        os.close(descriptor)
        if made and not complete:
            _remove(text)


def _open_to_write(text: str, source: Source, overwrite: bool) -> tuple[int, bool]:
    """A descriptor, and whether the file was made for it."""
    path = Path(text)
    made = not path.exists()
    if not made:
        there = path.stat()
        if isinstance(source, FileSource) and os.path.samestat(os.fstat(source.descriptor), there):
            raise ConfigurationError("destination", text, "is the source itself")
        if not overwrite and not stat.S_ISDIR(there.st_mode):
            raise ConfigurationError("destination", text, "exists already", "give --overwrite")
    return _open(text, os.O_RDWR | (os.O_CREAT | os.O_EXCL if made else 0)), made


def _remove(text: str) -> None:
    Path(text).unlink(missing_ok=True)


def _open(path: str, flags: int) -> int:
    # Non-blocking, so that a FIFO is refused below instead of waited for.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise ConfigurationError("file", path, "is neither a regular file nor a block device")


@contextlib.asynccontextmanager
async def _open_lun(
    url: IscsiUrl, login: LoginOptions, *, read_only: bool
) -> AsyncIterator[LogicalUnit]:
    opening = functools.partial(
        open_lun,
        url,
        chap=login.credentials(url),
        settings=login.session_settings(),
        initiator_name=login.initiator_name,
        read_only=read_only,
    )
    async with opening() as unit:
        yield unit


def _same_unit(one: LogicalUnit, other: LogicalUnit) -> bool:
    # Two LUNs with the same designators are one, or have designators that nothing can be told by;
    # then their addresses differ, and only equal addresses are surely the same.
    same_address = (one.session.target_name, one.lun) == (other.session.target_name, other.lun)
    return same_address and one.identity.key == other.identity.key
