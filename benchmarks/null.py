# SPDX-License-Identifier: Apache-2.0
"""The ceilings of the two FUSE channels: a device of memory behind each, with no target at all.

What a channel cannot do here, it cannot do with a LUN behind it either. pyfuse3 is at home on trio;
on uvloop it runs in its asyncio mode.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Literal

from tests.support.fuse_server import FuseServer, loop_device

from . import fio
from .criteria import NULL_TRIO, NULL_UVLOOP
from .level import Context, Level
from .model import OURS, Case
from .processes import Failed

SIZE = 256 << 20
KINDS: dict[str, Literal["native", "pyfuse3"]] = {OURS: "native", "pyfuse3": "pyfuse3"}


@contextlib.contextmanager
def null(context: Context) -> Iterator[Level]:
    """The level: four servers, each in a process of its own."""
    if importlib.util.find_spec("pyfuse3") is None:
        raise Failed("pyfuse3 is not installed: pip install 'pyscsi-init[pyfuse3]'")
    cases = context.chosen([NULL_TRIO, NULL_UVLOOP])
    with contextlib.ExitStack() as stack:
        served = {}
        for case in cases:
            for subject, kind in KINDS.items():
                directory = context.directory / f"null-{kind}-{case.kind}"
                directory.mkdir()
                server = stack.enter_context(
                    FuseServer(directory, kind=kind, loop=case.kind, size=SIZE)
                )
                device = stack.enter_context(loop_device(server.path))
                served[case, subject] = device, server.process.pid

        def measure(case: Case, subject: str) -> dict[str, float]:
            device, pid = served[case, subject]
            return fio.measure([device], case, context.seconds, [pid])

        yield Level("null", cases, lambda _: list(KINDS), measure)
