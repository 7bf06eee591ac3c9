# SPDX-License-Identifier: Apache-2.0
"""How the demo tells what it does: each step with its time, what was seen below it.

Also the way in which it says that something is not as it must be (:class:`DemoFailed`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from fusefs.cli import output
from fusefs.errors import VolumeError


class DemoFailed(VolumeError):
    """A step did not show what it should."""


class Story:
    """The steps so far."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Run a step and print it with the time it took; what it says comes below."""
        output.write(f"[{self.elapsed:6.2f} s] {text}\n")
        begin = time.monotonic()
        try:
            yield
        except BaseException:
            with contextlib.suppress(output.OutputClosed):
                self.say(f"not done after {time.monotonic() - begin:.2f} s")
            raise
        output.write(f"{'':12}done in {time.monotonic() - begin:.2f} s\n")

    def say(self, text: str) -> None:
        """What was seen, line by line."""
        for line in text.splitlines():
            output.write(f"{'':12}| {output.printable(line)}\n")


def require(condition: object, reason: str) -> None:
    """Raise DemoFailed with ``reason`` unless the condition holds."""
    if not condition:
        raise DemoFailed(reason)
