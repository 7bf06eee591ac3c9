# SPDX-License-Identifier: Apache-2.0
"""A device that fails, stalls and reorders when a test says so.

It stands in front of any other device. A *rule* picks requests by operation, byte range, predicate
and count, and fails them (before they reach the inner device or after it has done them); a *gate*
holds requests or their completions until the test lets them go, in any order. Nothing here sleeps:
time passes when the test says so. It counts what came by.

It is public, like the conformance kit: whoever writes a layer above a block device needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from ..errors import TaskAborted
from .interface import BlockDevice, BlockRequest, Operation
from .wrapper import WrappedDevice

Order = Literal["fifo", "lifo"]
Predicate = Callable[[BlockRequest], bool]


@dataclass(slots=True, kw_only=True)
class Match:
    """Which requests are meant; everything left out matches. ``times`` None means for ever."""

    operations: frozenset[Operation] | None = None
    start: int = 0
    end: int | None = None
    predicate: Predicate | None = None
    skip: int = 0
    times: int | None = None

    def takes(self, request: BlockRequest) -> bool:
        """Whether the rule applies; counts ``skip`` and ``times`` down."""
        if self.times == 0:
            return False
        if self.operations is not None and request.operation not in self.operations:
            return False
        if request.operation is not Operation.FLUSH and (
            request.offset + request.length <= self.start
            or (self.end is not None and request.offset >= self.end)
        ):
            return False
        if self.predicate is not None and not self.predicate(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(slots=True)
class _Rule:
    match: Match
    error: Exception
    after: bool


@dataclass(slots=True, kw_only=True)
class FaultStatistics:
    """What came by."""

    requests: dict[Operation, int] = field(default_factory=lambda: dict.fromkeys(Operation, 0))
    bytes_by_operation: dict[Operation, int] = field(
        default_factory=lambda: dict.fromkeys(Operation, 0)
    )
    injected_errors: int = 0
    cancelled: int = 0
    in_flight: int = 0
    max_in_flight: int = 0


class _Passage:
    """One request on its way through."""

    __slots__ = ("after", "inner_request", "request", "state")

    def __init__(self, request: BlockRequest, after: Exception | None) -> None:
        self.request = request
        self.after = after
        self.state: Literal["held", "below", "done"] = "held"
        self.inner_request: BlockRequest | None = None


class FaultDevice(WrappedDevice):
    """``inner``, with faults."""

    def __init__(self, inner: BlockDevice) -> None:
        super().__init__(inner)
        self.statistics = FaultStatistics()
        self.log: list[tuple[Operation, int, int]] = []
        """Every request that was let through to the inner device, in order."""
        self._rules: list[_Rule] = []
        self._hold_before: list[Match] = []
        self._hold_after: list[Match] = []
        self._held: list[_Passage] = []
        self._passages: dict[BlockRequest, _Passage] = {}

    # -- what the test says ---------------------------------------------------------------------

    def fail(self, error: Exception, match: Match | None = None, *, after: bool = False) -> None:
        """Complete matching requests with ``error``; with ``after`` the inner device does them
        first, as when the answer is lost."""
        self._rules.append(_Rule(match or Match(), error, after))

    def hold(self, match: Match | None = None, *, completions: bool = False) -> None:
        """Keep matching requests, or with ``completions`` their answers, until :meth:`release`."""
        (self._hold_after if completions else self._hold_before).append(match or Match())

    def clear(self) -> None:
        """Forget all rules and gates; what is held stays held until :meth:`release`."""
        self._rules.clear()
        self._hold_before.clear()
        self._hold_after.clear()

    @property
    def held(self) -> list[BlockRequest]:
        """The callers' requests that are held now, the oldest first."""
        return [passage.request for passage in self._held]

    def release(self, count: int | None = None, *, order: Order = "fifo") -> int:
        """Let ``count`` (or all) of the held go on, the oldest or the newest first."""
        chosen = self._held if order == "fifo" else self._held[::-1]
        return self.release_only(passage.request for passage in chosen[:count])

    def release_only(self, requests: Iterable[BlockRequest]) -> int:
        """Let these held requests go on, in the given order; the others stay."""
        released = 0
        for request in list(requests):
            passage = self._passages.get(request)
            if passage is None or passage not in self._held:
                continue
            self._held.remove(passage)
            released += 1
            if passage.state == "done":
                self._finish(passage, request.error)
            else:
                self._descend(passage)
        return released

    # -- the device -----------------------------------------------------------------------------

    def submit(self, request: BlockRequest) -> None:
        statistics = self.statistics
        statistics.requests[request.operation] += 1
        statistics.bytes_by_operation[request.operation] += request.length
        statistics.in_flight += 1
        statistics.max_in_flight = max(statistics.max_in_flight, statistics.in_flight)
        rule = next((rule for rule in self._rules if rule.match.takes(request)), None)
        passage = _Passage(request, rule.error if rule is not None and rule.after else None)
        self._passages[request] = passage
        if rule is not None:
            statistics.injected_errors += 1
        if rule is not None and not rule.after:
            self._finish(passage, rule.error)
        elif any(match.takes(request) for match in self._hold_before):
            self._held.append(passage)
        else:
            self._descend(passage)

    def _descend(self, passage: _Passage) -> None:
        request = passage.request
        passage.state = "below"
        passage.inner_request = inner_request = BlockRequest(
            request.operation,
            request.offset,
            request.length,
            request.buffer,
            self._inner_done,
            fua=request.fua,
            context=passage,
        )
        self.log.append((request.operation, request.offset, request.length))
        self.inner.submit(inner_request)

    def _inner_done(self, inner_request: BlockRequest) -> None:
        passage = inner_request.context
        assert isinstance(passage, _Passage)  # noqa: S101  (we put it there ourselves)
        passage.state = "done"
        error = inner_request.error or passage.after
        if any(match.takes(passage.request) for match in self._hold_after):
            passage.request.error = error
            self._held.append(passage)
        else:
            self._finish(passage, error)

    def _finish(self, passage: _Passage, error: Exception | None) -> None:
        del self._passages[passage.request]
        self.statistics.in_flight -= 1
        passage.request.complete(error)

    def cancel(self, request: BlockRequest) -> None:
        """A held request ends with TaskAborted; a held completion is let go; others pass down."""
        passage = self._passages.get(request)
        if passage is None:
            return
        self.statistics.cancelled += 1
        if passage in self._held:
            self._held.remove(passage)
            if passage.state == "done":
                self._finish(passage, request.error)
            else:
                self._finish(passage, TaskAborted(f"{request!r}: cancelled while it was held"))
        elif passage.inner_request is not None:
            self.inner.cancel(passage.inner_request)

    async def aclose(self) -> None:
        """What is held ends first: requests as aborted, completions as they are."""
        for request in self.held:
            self.cancel(request)
        await super().aclose()
