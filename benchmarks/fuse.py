# SPDX-License-Identifier: Apache-2.0
"""The level of FUSE and loop: fio on a loop device over a FUSE file, ours beside the C peers.

All of them have the same LUN open for the whole level, and are measured in turn. Nothing on it is
ever read back for its content, so it does not matter that they write over each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from . import criteria, fio
from .criteria import NBDFUSE, QEMU, QEMU_SERIAL
from .level import Context, Level
from .model import OURS, Case, with_grid
from .peers import Peer, peer
from .volumes import attached

CASES = [
    criteria.READ_1, criteria.READ_32, criteria.WRITE_32, criteria.READ_16K, criteria.SEQ_READ,
    criteria.SEQ_WRITE,
]  # fmt: skip


@contextlib.contextmanager
def fuse(context: Context) -> Iterator[Level]:
    """The level, on the shared LUN."""
    cases = with_grid(CASES) if context.grid else CASES
    url = context.target.url(0)
    with contextlib.ExitStack() as stack:
        volume = stack.enter_context(attached(context, url, "bench"))
        served = {OURS: Peer(volume["loop"], (volume["worker_pid"],))}
        needed = {subject for case in context.chosen(cases) for subject in subjects(case)}
        for kind in (QEMU, QEMU_SERIAL, NBDFUSE):
            if kind in needed:
                served[kind] = stack.enter_context(peer(context, kind, url))

        def measure(case: Case, subject: str) -> dict[str, float]:
            it = served[subject]
            return fio.measure([it.device], case, context.seconds, it.pids)

        yield Level("fuse", cases, subjects, measure)


def subjects(case: Case) -> list[str]:
    """Reads are compared with the fastest peer, writes also with those that write correctly."""
    return [OURS, QEMU, QEMU_SERIAL, NBDFUSE] if case.writes else [OURS, QEMU]
