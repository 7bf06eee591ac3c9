# SPDX-License-Identifier: Apache-2.0
"""What the grids of all targets have in common."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Chap, Secret, Settings
from pyscsi_init.errors import IscsiError
from tests.support.grid import Cell
from tests.support.verify import verify
from tests.support.waiting import until

USER, SECRET = "initiator", "initiator-secret-1"
TARGET_USER, TARGET_SECRET = "target", "target-secret-234"

OPEN_TIMEOUT = 100.0
PATIENCE = 60.0
WRITERS = 4
REGION = 2 << 20
"""Bytes for each writer."""

RESTART_CELLS = [
    Cell(
        target=target,
        initial_r2t=False,
        immediate_data=immediate_data,
        header_digest=digest,
        data_digest=digest,
        bursts=(65536, 262144),
        max_recv_data_segment_length=8192,
        block_size=block_size,
    )
    for target, immediate_data, digest, block_size in (
        ("open", True, ("None",), 512),
        ("open", False, ("CRC32C",), 4096),
        ("closed", False, ("None",), 4096),
        ("small", True, ("CRC32C",), 512),
    )
]
"""In a restart the ways to send data differ, and with digests the path through the code."""


OPCODES = {0x01, 0x03, 0x05, 0x06, 0x21, 0x23, 0x25, 0x26, 0x31}
"""What a grid has on the wire, or its capture has missed something."""


def differences(
    lun: pyscsi_init.LogicalUnit, expected: dict[str, object]
) -> dict[str, tuple[object, object]]:
    """Parameter of the session -> what is in force, and what should be."""
    found = {name: getattr(lun.session.parameters, name) for name in expected}
    return {
        name: (found[name], expected[name]) for name in expected if found[name] != expected[name]
    }


async def run_cell(url: str, cell: Cell, expected: dict[str, object]) -> None:
    """Log in, hold what was negotiated against what must come out, and move data."""
    settings = cell.settings()
    async with pyscsi_init.open_lun(url, settings=settings, open_timeout=OPEN_TIMEOUT) as lun:
        wrong = differences(lun, expected)
        assert not wrong, f"{cell}: {wrong}"
        assert lun.block_size == cell.block_size
        await verify(lun, cell)
        assert lun.session.statistics.losses == 0


async def digests_that_the_target_lacks(url: str, error: type[IscsiError], match: str) -> None:
    """Where None is offered too, None it is; where not, the login ends with ``error``."""
    both = Settings(header_digest=("CRC32C", "None"), data_digest=("CRC32C", "None"))
    async with pyscsi_init.open_lun(url, settings=both) as lun:
        assert not lun.session.parameters.header_digest
        assert not lun.session.parameters.data_digest
        assert len(await lun.read(0, 512)) == 512
    for name in ("header_digest", "data_digest"):
        alone = dataclasses.replace(Settings(), **{name: ("CRC32C",)})
        with pytest.raises(error, match=match):
            async with pyscsi_init.open_lun(url, settings=alone):
                pass


async def restart_under_load(
    url: str, cell: Cell, restart: Callable[[], None], expected: dict[str, object]
) -> None:
    """Writers go on while the target goes away and comes back; what was answered is there."""
    # A machine without power closes nothing: only a ping finds that out.
    settings = cell.settings(
        recovery_timeout=None, default_time2wait=0, noop_interval=1, noop_timeout=2
    )
    written: dict[int, bytes] = {}
    stop = False
    async with pyscsi_init.open_lun(url, settings=settings) as lun:

        async def writer(number: int) -> None:
            choice = random.Random(number)
            slots = REGION // 131072
            while not stop:
                offset = (1 << 20) + number * REGION + choice.randrange(slots) * 131072
                data = choice.randbytes(choice.choice((cell.block_size, 8192, 65536, 131072)))
                await lun.write(offset, data)
                # A shorter write leaves the rest of a longer one.
                written[offset] = data + written.get(offset, b"")[len(data) :]

        async with anyio.create_task_group() as writers:
            for number in range(WRITERS):
                writers.start_soon(writer, number)
            await until(lambda: len(written) >= 2 * WRITERS, PATIENCE)
            await anyio.to_thread.run_sync(restart)
            before = lun.session.statistics
            await until(lambda: before.recoveries >= 1, PATIENCE)
            again = dict(written)
            await until(lambda: written != again, PATIENCE)
            stop = True
        assert lun.session.statistics.recoveries >= 1
        wrong = differences(lun, expected)
        assert not wrong, f"{cell}: {wrong}"
        for offset, data in written.items():
            assert await lun.read(offset, len(data)) == data


def credentials(*algorithms: int, mutual: bool = False, user: str = USER) -> Chap:
    """The pair of secrets that the targets of a grid are set up with."""
    return Chap(
        user=user,
        secret=Secret(SECRET),
        mutual_user=TARGET_USER if mutual else "",
        mutual_secret=Secret(TARGET_SECRET) if mutual else None,
        algorithms=algorithms,
    )


def chap_algorithm(lun: pyscsi_init.LogicalUnit) -> int | None:
    """What the target chose at the last login."""
    connection = lun.session._machine.connection
    assert connection is not None
    return connection.login.chap_algorithm_chosen
