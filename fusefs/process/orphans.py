# SPDX-License-Identifier: Apache-2.0
"""Becoming the parent of orphaned descendants: prctl(PR_SET_CHILD_SUBREAPER).

Workers are children of a zygote; when it dies they are given to the nearest ancestor that asked for
it, which learns how each of them ends. It needs no privilege, and where it cannot be had only the
reason of a death stays unknown: that a worker is dead its pidfd says.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

import contextlib
import ctypes

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Ask the kernel for it; False where it refuses."""
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False
