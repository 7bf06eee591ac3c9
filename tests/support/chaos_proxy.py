# SPDX-License-Identifier: Apache-2.0
"""A proxy that treats both directions as the worst network would that TCP can be run over.

What comes is cut into pieces of any size or glued to what comes next, each piece waits a moment of
its own, now and then a direction stands still for a while, and now and then the connection is cut
(by RST or by FIN) in the middle of a piece. All of it follows from the seed, as far as the peers
send the same; what is cut is counted.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .proxy import TcpProxy, _Direction

PIECES = (1, 7, 48, 100, 1460, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad it is. Chances are for each read of a socket; times are seconds."""

    split: float = 0.3
    merge: float = 0.1
    delay: float = 0.002
    """The longest that a piece waits."""
    stall: float = 0.005
    stall_s: float = 0.05
    cut: float = 0.0
    """Chance that the connection dies with this read."""
    cut_bytes: tuple[int, int] | None = None
    """Instead: a connection dies when so many bytes, drawn from this range, have passed it."""


class ChaosProxy(TcpProxy):
    """Use it as :class:`TcpProxy`; :attr:`weather` may be changed at any time."""

    def __init__(
        self,
        upstream: tuple[str, int],
        seed: int,
        weather: Weather,
        *,
        connect: Callable[[tuple[str, int]], socket.socket] | None = None,
    ) -> None:
        super().__init__(upstream, connect=connect)
        self._choice = random.Random(seed)
        self.weather = weather
        self.cuts = 0
        """Connections that were cut."""
        self.done: Counter[str] = Counter()
        """How often each thing was done."""
        self._lives: dict[int, int] = {}
        """Bytes that are left to a connection, by the descriptor of its client's end."""

    def _receive(self, pair: tuple[_Direction, _Direction], each: _Direction) -> None:
        queued = len(each.queue)
        super()._receive(pair, each)
        if pair not in self._pairs or len(each.queue) == queued:
            return
        _, data = each.queue.pop()
        each.waiting -= len(data)
        weather, choice = self.weather, self._choice
        end = self._where_it_ends(pair, data)
        if end is not None:
            self._cut(pair, each, data[:end])
            return
        now = time.monotonic()
        last = each.queue[-1][0] if each.queue else now
        if each.queue and choice.random() < weather.merge:
            due, before = each.queue.pop()
            each.queue.append((due, before + data))
            self.done["merged"] += 1
        else:
            for piece in self._pieces(data):
                # In order, whatever each waits.
                last = max(last, now + choice.random() * weather.delay)
                each.queue.append((last, piece))
        each.waiting += len(data)
        if choice.random() < weather.stall:
            due, piece = each.queue.pop()
            each.queue.append((due + choice.random() * weather.stall_s, piece))
            self.done["stalled"] += 1

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._choice.random() >= self.weather.split:
            return [data]
        self.done["split"] += 1
        pieces: list[bytes] = []
        while data:
            # A few small ones, and the rest: a long read shall not become a thousand pieces.
            size = self._choice.choice(PIECES) if len(pieces) < 4 else len(data)
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    def _where_it_ends(self, pair: tuple[_Direction, _Direction], data: bytes) -> int | None:
        """How much of ``data`` still passes, where the connection is to die with it."""
        weather, choice = self.weather, self._choice
        if weather.cut_bytes is not None:
            key = pair[0].source.fileno()
            left = self._lives.setdefault(key, choice.randint(*weather.cut_bytes))
            self._lives[key] = left - len(data)
            return left if left < len(data) else None
        return choice.randrange(len(data) + 1) if choice.random() < weather.cut else None

    def _cut(self, pair: tuple[_Direction, _Direction], each: _Direction, rest: bytes) -> None:
        """What is on its way arrives or not; of this read ``rest`` does."""
        self.cuts += 1
        reset = self._choice.random() < 0.5
        self.done["reset" if reset else "closed"] += 1
        with contextlib.suppress(OSError):
            if self._choice.random() < 0.7:
                for data in [*(piece for _, piece in each.queue), rest]:
                    if each.sink.send(data) < len(data):
                        break  # what follows would leave a gap
        self._lives.pop(pair[0].source.fileno(), None)
        self._end(pair, reset=reset)

    def _take_connection(self) -> None:
        pairs = len(self._pairs)
        super()._take_connection()
        if len(self._pairs) > pairs:
            self._lives.pop(self._pairs[-1][0].source.fileno(), None)
