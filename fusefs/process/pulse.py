# SPDX-License-Identifier: Apache-2.0
"""What a worker says to the holder without words: an eventfd that both have.

Adding to an eventfd never blocks, opens no file and needs no listener, so a worker can do it from
its event loop at any time. Each word is a bit far above what beats could add up to between two
looks of the holder.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

import contextlib
import os

BEAT = 1
"""The event loop turns."""
READY = 1 << 24
"""The volume is served."""
OVER = 1 << 32
"""The volume has ended in order: no successor."""
HANDED_OVER = 1 << 40
"""The worker ended because it was told to make room: a successor at once."""

INTERVAL_S = 1.0
"""Between two beats."""

SILENCE_S = 10.0
"""Ten beats missed: whatever a healthy loop does between two beats takes milliseconds, and a host
that is so short of processors or memory that it takes seconds should not lose its workers too."""


def make_pulse() -> int:
    """A new eventfd, close-on-exec, that never blocks."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def say(pulse: int, word: int) -> None:
    """Say a word. Never blocks, never raises: nobody may be there to hear it."""
    if pulse >= 0:
        with contextlib.suppress(OSError):
            os.eventfd_write(pulse, word)


def hear(pulse: int) -> int:
    """What was said since the last time; 0 for nothing."""
    try:
        return os.eventfd_read(pulse)
    except OSError:
        return 0


def heard(words: int, word: int) -> bool:
    """Whether what :func:`hear` brought holds a word."""
    return bool((words // word) & 0xFF) if word != BEAT else bool(words)
