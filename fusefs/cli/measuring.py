# SPDX-License-Identifier: Apache-2.0
"""Measuring a block device: so many requests in flight for so long, and what became of them.

Requests are submitted with completions, as the FUSE channel does it: a completed one is sent again
at once for another place, with no task and no event for each I/O. Of each only its latency is kept,
in a histogram of microseconds, so a long run takes no more memory than a short one.

It knows no command line, no terminal and no URL. ``benchmarks/`` measures with the same code.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import anyio

from pyscsi_init.device.interface import BlockDevice, BlockRequest, Operation
from pyscsi_init.errors import ConfigurationError

PATTERNS = ("read", "write", "randread", "randwrite", "randrw")
"""As fio names them: sequential or random, and what is done. ``randrw`` is half of each."""

PERCENTILES = (50.0, 90.0, 99.0, 99.9)

FINE_US = 1 << 16
"""Latencies below this are counted by the microsecond, longer ones to one part in 64."""
_CHOICES = 1 << 16
"""Random places are drawn beforehand, and used in turn: drawing one costs as much as sending it."""


class Histogram:
    """How often each latency occurred."""

    def __init__(self) -> None:
        self.fine = [0] * FINE_US
        """Counts by the microsecond; the data path adds to them by itself."""
        self._coarse: dict[int, int] = {}
        self._longest = 0

    def add(self, seconds: float) -> None:
        """Count one of any length."""
        microseconds = int(seconds * 1e6)
        if microseconds < FINE_US:
            self.fine[microseconds] += 1
            return
        self._longest = max(self._longest, microseconds)
        shift = microseconds.bit_length() - 7
        key = microseconds >> shift << shift
        self._coarse[key] = self._coarse.get(key, 0) + 1

    def _counts(self) -> list[tuple[int, int]]:
        fine = [(us, count) for us, count in enumerate(self.fine) if count]
        return fine + sorted(self._coarse.items())

    def percentiles(self) -> dict[str, float]:
        """``p50`` and so on, the latency in microseconds that so many percent did not exceed, and
        ``max``; NaN where nothing was counted."""
        counts = self._counts()
        total = sum(count for _, count in counts)
        found = {f"p{percent:g}": math.nan for percent in PERCENTILES}
        for percent in PERCENTILES:
            seen = 0
            for microseconds, count in counts:
                seen += count
                if seen >= total * percent / 100:
                    found[f"p{percent:g}"] = float(microseconds)
                    break
        longest = self._longest or (counts[-1][0] if counts else math.nan)
        return {**found, "max": float(longest)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is done to the device. Sizes and offsets are bytes; ``size`` 0 means to its end."""

    pattern: str
    block_size: int
    depth: int
    seconds: float
    offset: int = 0
    size: int = 0

    @property
    def writes(self) -> bool:
        """Whether it destroys what is on the device."""
        return "w" in self.pattern

    @property
    def mixed(self) -> bool:
        """Whether it reads and writes."""
        return self.pattern == "randrw"

    @property
    def sequential(self) -> bool:
        """Whether the places are taken in order, from the beginning again at the end."""
        return not self.pattern.startswith("rand")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it. Rates are per second of ``seconds``, which ends with the last completion."""

    seconds: float
    ios: int
    reads: int
    writes: int
    bytes: int
    cpu_seconds: float
    """CPU time of this process in that time, user and system."""
    latency_us: dict[str, float]
    """``p50`` and so on, and ``max``: from the submission to the completion of a request."""

    @property
    def iops(self) -> float:
        return self.ios / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def cpu_us_per_io(self) -> float:
        return self.cpu_seconds / self.ios * 1e6 if self.ios else math.nan

    def as_document(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            **asdict(self),
            "iops": self.iops,
            "bytes_per_second": self.bytes_per_second,
            "cpu_us_per_io": self.cpu_us_per_io,
        }


@dataclass(slots=True)
class Counted:
    """What has been done so far, for whoever shows it meanwhile."""

    ios: int = 0


def check_load(load: Load, device: BlockDevice) -> None:
    """Raise where the load does not fit the device.

    Raises:
        ConfigurationError: which value, why, and what would do.
    """
    block = device.block_size
    for name, value in (
        ("--bs", load.block_size),
        ("--offset", load.offset),
        ("--size", load.size),
    ):
        if value % block:
            raise ConfigurationError(
                name, value, f"is no multiple of the LUN's blocks of {block} bytes",
                f"such as {(value // block + 1) * block}",
            )  # fmt: skip
    if load.offset >= device.size_bytes:
        raise ConfigurationError(
            "--offset", load.offset, "lies beyond the LUN", f"it has {device.size_bytes} bytes"
        )
    if load.offset + load.size > device.size_bytes:
        raise ConfigurationError(
            "--size", load.size, f"from {load.offset} on ends beyond the LUN",
            f"at most {device.size_bytes - load.offset}",
        )  # fmt: skip
    length = load.size or device.size_bytes - load.offset
    if load.block_size > length:
        raise ConfigurationError(
            "--bs", load.block_size, f"is more than the {length} bytes that are to be used",
            "give less, or another range",
        )  # fmt: skip


def _places(load: Load, length: int) -> Iterator[int]:
    """The offsets, for ever."""
    blocks = length // load.block_size
    if load.sequential:
        return itertools.cycle(
            range(load.offset, load.offset + blocks * load.block_size, load.block_size)
        )
    choice = random.Random(os.urandom(8))  # noqa: S311  (no secret)
    return itertools.cycle(
        [load.offset + choice.randrange(blocks) * load.block_size for _ in range(_CHOICES)]
    )


def _operations(pattern: str) -> Iterator[Operation]:
    if pattern == "randrw":
        choice = random.Random(1)  # noqa: S311
        both = (Operation.READ, Operation.WRITE)
        return itertools.cycle([choice.choice(both) for _ in range(_CHOICES - 1)])
    return itertools.repeat(Operation.WRITE if "write" in pattern else Operation.READ)


async def measure(device: BlockDevice, load: Load, counted: Counted | None = None) -> Measured:
    """Put the load on the device and return what came of it.

    ``counted`` is kept up to date meanwhile. What was written is random data, and is not flushed.

    Raises:
        ConfigurationError: the load does not fit the device; nothing was done.
        IscsiError: the first request that failed.

    Cancellation: no more is submitted; it is raised when all requests have completed.
    """
    check_load(load, device)
    run = _Run(device, load, counted or Counted())
    return await run.run()


class _Run:
    """One measurement."""

    def __init__(self, device: BlockDevice, load: Load, counted: Counted) -> None:
        self._device = device
        self._load = load
        self._counted = counted
        self._latencies = Histogram()
        self._buffers: dict[BlockRequest, bytearray] = {}
        self._idle = anyio.Event()
        self._in_flight = 0
        self._reads = 0
        self._end = 0.0
        self._error: Exception | None = None

    async def run(self) -> Measured:
        load, counted = self._load, self._counted
        start = self._callbacks()
        requests = [self._request() for _ in range(load.depth)]
        cpu_before, begin = _cpu_seconds(), time.perf_counter()
        self._end = begin + load.seconds
        self._in_flight = load.depth
        for request in requests:
            start(request, time.perf_counter())
        try:
            await self._idle.wait()
        except BaseException:
            self._end = 0.0
            for request in requests:
                self._device.cancel(request)
            # The device owns the buffers until it lets go of them.
            with anyio.CancelScope(shield=True):
                await self._idle.wait()
            raise
        seconds, cpu = time.perf_counter() - begin, _cpu_seconds() - cpu_before
        if self._error is not None:
            raise self._error
        reads = self._reads if load.mixed else 0 if load.writes else counted.ios
        return Measured(
            seconds=seconds,
            ios=counted.ios,
            reads=reads,
            writes=counted.ios - reads,
            bytes=counted.ios * load.block_size,
            cpu_seconds=cpu,
            latency_us=self._latencies.percentiles(),
        )

    def _request(self) -> BlockRequest:
        # All is made before the clock runs.
        buffer = bytearray(os.urandom(self._load.block_size))
        request = BlockRequest(Operation.READ, 0, len(buffer), buffer, self._completed)
        self._buffers[request] = buffer
        return request

    def _callbacks(self) -> Callable[[BlockRequest, float], None]:
        """Sets the completion; returns what submits. Closures: their names cost less than
        attributes, and what is measured here shall be the device."""
        load, counted, submit = self._load, self._counted, self._device.submit
        length = load.size or self._device.size_bytes - load.offset
        next_place = _places(load, length).__next__
        next_operation = _operations(load.pattern).__next__
        clock, histogram, fine = time.perf_counter, self._latencies, self._latencies.fine
        mixed, reading = load.mixed, Operation.READ
        # Where reads and writes are mixed: not what was just read, which may be zeros or alike.
        payload = os.urandom(load.block_size)
        again: list[BlockRequest] = []
        submitting = False

        def start(request: BlockRequest, now: float) -> None:
            nonlocal submitting
            submitting = True
            while True:
                request.offset = next_place()
                request.operation = next_operation()
                if mixed:
                    is_read = request.operation is reading
                    request.buffer = self._buffers[request] if is_read else payload
                request.context = now
                submit(request)
                if not again:
                    break
                # A device that completes before submit returns would nest the next in this one.
                request, now = again.pop(), clock()
            submitting = False

        def completed(request: BlockRequest) -> None:
            now = clock()
            if request.error is not None:
                self._error = self._error or request.error
                self._end = 0.0
            else:
                latency: float = now - request.context  # type: ignore[operator]
                try:
                    fine[int(latency * 1e6)] += 1
                except IndexError:
                    histogram.add(latency)
                counted.ios += 1
                if mixed and request.operation is reading:
                    self._reads += 1
                if now < self._end:
                    if submitting:
                        again.append(request)
                    else:
                        start(request, now)
                    return
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

        self._completed = completed
        return start


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
