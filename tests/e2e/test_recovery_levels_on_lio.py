# SPDX-License-Identifier: Apache-2.0
"""Error recovery levels 1 and 2 against LIO, the kernel's target, under load.

Level 2: the connection is cut again and again, in the middle of PDUs; the session goes on, its
commands with TASK REASSIGN, those that never arrived with the CmdSN that they had. Level 1: PDUs
are damaged or vanish on the way; the connection never dies. Every block is read back and compared.

Limits of LIO that these tests stay away from: with each Reject of a Data-Out it lets go of its
command a little, and closes the connection at the third one; its own timer for a Data-Out that
vanishes is three seconds.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.session import SessionState
from tests.support import tshark
from tests.support.lio import LioServer
from tests.support.proxy import TcpProxy
from tests.support.tamper import (
    DATA_IN,
    DATA_OUT,
    R2T,
    REJECT,
    SCSI_COMMAND,
    SCSI_RESPONSE,
    SNACK,
    TASK_MANAGEMENT,
    TO_CLIENT,
    TO_TARGET,
    Rule,
    Tamper,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.anyio, pytest.mark.one_loop]

KIBI, MEBI = 1 << 10, 1 << 20
DISK = 64 * MEBI
FUNCTION, REASSIGN = "iscsi.taskmanfun.function", "0x08"
"""Of a Task Management Function Request, as tshark calls and prints it."""


@pytest.fixture(scope="module")
def lio() -> Iterator[LioServer]:
    with LioServer(reassign=True) as server:
        yield server


class Load:
    """Workers that write and read back pieces of their own, ``size`` bytes at a time."""

    def __init__(self, lun: pyscsi_init.LogicalUnit, *, workers: int, size: int) -> None:
        self.lun = lun
        self.workers = workers
        self.size = size
        self.written: dict[int, bytes] = {}
        self.done = 0
        self.stopped = False

    async def work(self, number: int) -> None:
        """Until ``stopped``."""
        choice = random.Random(number)
        pieces = DISK // self.size // self.workers
        while not self.stopped:
            piece = choice.randrange(min(pieces, 80)) * self.workers + number
            if piece in self.written and choice.random() < 0.5:
                await self.check(piece)
            else:
                data = os.urandom(16) * (self.size // 16)
                await self.lun.write(piece * self.size, data)
                self.written[piece] = data
            self.done += 1

    async def check(self, piece: int) -> None:
        """Read a piece and compare it."""
        data = await self.lun.read(piece * self.size, self.size)
        assert data == self.written[piece], f"piece {piece} is not what was written"

    async def check_all(self) -> None:
        """Read all that was ever written and compare it."""
        for piece in self.written:
            await self.check(piece)


@asynccontextmanager
async def working(lun: pyscsi_init.LogicalUnit, *, workers: int, size: int) -> AsyncIterator[Load]:
    """The load runs in the block; everything is checked after it."""
    load = Load(lun, workers=workers, size=size)
    async with anyio.create_task_group() as tasks:
        for number in range(workers):
            tasks.start_soon(load.work, number)
        yield load
        load.stopped = True
    await load.check_all()


# -- level 2 -----------------------------------------------------------------------------------


def new_target(lio: LioServer, level: int, **params: object) -> int:
    tid = lio.new_target(f"iqn.2026-11.example:level{level}-{len(lio.targets)}", default_erl=level)
    lio.set_param(tid, "DefaultTime2Wait", 0)
    lio.set_param(tid, "DefaultTime2Retain", 20)
    for key, value in params.items():
        lio.set_param(tid, key, value)
    lio.add_lun(tid, 0, DISK)
    return tid


async def cut_under_load(
    lio: LioServer, cuts: int, apart: float, trace: Path | None = None
) -> None:
    tid = new_target(lio, 2)
    settings = Settings(
        recovery_timeout=None,
        default_time2wait=0,
        error_recovery_level=2,
        trace=str(trace or ""),
    )
    choice = random.Random(2)
    tamper = Tamper()
    with lio.proxy(tamper) as proxy:
        url = f"iscsi://{proxy.portal}/{lio.targets[tid]}/0"
        async with (
            pyscsi_init.open_lun(url, settings=settings) as lun,
            working(lun, workers=24, size=32 * KIBI) as load,
        ):
            session = lun.session
            assert session.parameters.error_recovery_level == 2
            tsih = session.tsih
            for number in range(1, cuts + 1):
                # A session that lives for less than two seconds, many times in a row, is made to
                # wait for its next login.
                await anyio.sleep(apart)
                count = load.done
                await until(lambda count=count: load.done > count + 24, 30)
                await anyio.to_thread.run_sync(
                    proxy.cut_after,
                    choice.randrange(200_000),
                    choice.choice((TO_TARGET, TO_CLIENT)),
                )
                await until(lambda number=number: session.statistics.continuations == number, 30)
        statistics = session.statistics
        port = proxy.port
    if trace is not None:
        functions = tshark.column(trace, FUNCTION, port=port)
        assert functions.count(REASSIGN) >= statistics.reassigned
    assert statistics.losses == statistics.continuations == cuts
    assert session.tsih == tsih, "it was one session from the first to the last"
    # In each round many commands were under way; of those, some had arrived and some had not.
    assert statistics.reassigned > cuts
    assert statistics.sent_again > cuts / 2
    assert tamper.seen[TO_TARGET, TASK_MANAGEMENT] >= statistics.reassigned
    assert "Oops" not in lio.guest.kernel_log()


async def test_cuts_under_load_are_recovered_within_the_session(
    lio: LioServer, tmp_path: Path
) -> None:
    await cut_under_load(lio, 8, 0, tmp_path / "trace.pcapng")


@pytest.mark.soak
async def test_forty_cuts_under_load(lio: LioServer) -> None:
    for _ in range(2):
        await cut_under_load(lio, 40, 2)


async def test_a_session_that_lio_has_forgotten_is_begun_anew(lio: LioServer) -> None:
    """The portal group is switched off and on: reinstatement is refused, the barrier follows."""
    tid = new_target(lio, 2)
    settings = Settings(recovery_timeout=None, default_time2wait=0, error_recovery_level=2)
    with lio.proxy() as proxy:
        url = f"iscsi://{proxy.portal}/{lio.targets[tid]}/0"
        async with (
            pyscsi_init.open_lun(url, settings=settings) as lun,
            working(lun, workers=8, size=32 * KIBI) as load,
        ):
            await until(lambda: load.done > 100, 30)
            await anyio.to_thread.run_sync(lio.enable, tid, False)
            await anyio.to_thread.run_sync(lio.enable, tid, True)
            await until(lambda: lun.session.statistics.recoveries >= 1, 60)
            count = load.done
            await until(lambda: load.done > count + 100, 30)
            assert lun.session.state is SessionState.Q3_LOGGED_IN
            assert lun.session.statistics.continuations == 0


# -- level 1 -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What happens to PDUs on the way, and the ways in which the load sends them."""

    rules: Callable[[Tamper], list[Rule]]
    digest: bool = False
    size: int = 64 * KIBI
    workers: int = 8
    solicited: bool = False
    """Data-Out only after R2T."""
    answers: tuple[tuple[str, int], ...] = ((TO_TARGET, SNACK),)
    """What must have been seen, at least once for each PDU that was damaged (or some of them)."""


DAMAGES = {
    "Data-In is damaged": Damage(
        lambda tamper: [tamper.corrupt(TO_CLIENT, DATA_IN, every=13, skip=40)], digest=True
    ),
    "commands with immediate data are damaged": Damage(
        lambda tamper: [tamper.corrupt(TO_TARGET, SCSI_COMMAND, every=19, skip=40)],
        digest=True,
        answers=((TO_CLIENT, REJECT),),
    ),
    "Data-Out is damaged": Damage(
        # One writer whose pieces are 16 PDUs: once for each of its commands, and only some.
        lambda tamper: [tamper.corrupt(TO_TARGET, DATA_OUT, skip=skip) for skip in (8, 41, 75)],
        workers=1,
        digest=True,
        size=256 * KIBI,
        solicited=True,
        answers=((TO_CLIENT, REJECT), (TO_CLIENT, R2T)),
    ),
    "Data-In and statuses vanish": Damage(
        lambda tamper: [
            tamper.withhold(TO_CLIENT, DATA_IN, every=41, skip=40),
            tamper.withhold(TO_CLIENT, SCSI_RESPONSE, every=43, skip=40),
        ]
    ),
    "R2Ts vanish": Damage(
        lambda tamper: [tamper.withhold(TO_CLIENT, R2T, every=41, skip=5)],
        size=256 * KIBI,
        solicited=True,
    ),
    "a command vanishes": Damage(
        lambda tamper: [tamper.withhold(TO_TARGET, SCSI_COMMAND, skip=60)], answers=()
    ),
    "Data-Out vanishes": Damage(
        lambda tamper: [tamper.withhold(TO_TARGET, DATA_OUT, every=97, skip=8)],
        size=256 * KIBI,
        solicited=True,
        answers=((TO_CLIENT, R2T),),
    ),
}


async def damage_under_load(
    lio: LioServer, damage: Damage, seconds: float, trace: Path | None = None
) -> None:
    tid = new_target(
        lio,
        1,
        DataDigest="CRC32C" if damage.digest else "None",
        InitialR2T="Yes" if damage.solicited else "No",
        ImmediateData="No" if damage.solicited else "Yes",
        MaxBurstLength=64 * KIBI,
        MaxXmitDataSegmentLength=16 * KIBI if damage.solicited else 256 * KIBI,
    )
    settings = Settings(
        recovery_timeout=None,
        error_recovery_level=1,
        data_digest=("CRC32C" if damage.digest else "None",),
        max_recv_data_segment_length=16 * KIBI,
        trace=str(trace or ""),
    )
    tamper = Tamper(data_digest=damage.digest)
    rules = damage.rules(tamper)
    with lio.proxy(tamper) as proxy:
        await _run(lio, proxy, tid, settings, damage, seconds, rules)
    harmed = sum(rule.done for rule in rules)
    for answer in damage.answers:
        assert tamper.seen[answer] >= harmed / 2, (answer, harmed, tamper.seen)
        if trace is not None and not damage.digest:
            # With data digests tshark loses its place where PDUs share a segment.
            opcodes = tshark.column(trace, "iscsi.opcode", port=proxy.port)
            assert opcodes.count(f"0x{answer[1]:02x}") >= tamper.seen[answer]


async def _run(
    lio: LioServer,
    proxy: TcpProxy,
    tid: int,
    settings: Settings,
    damage: Damage,
    seconds: float,
    rules: list[Rule],
) -> None:
    url = f"iscsi://{proxy.portal}/{lio.targets[tid]}/0"
    async with pyscsi_init.open_lun(url, settings=settings) as lun:
        assert lun.session.parameters.error_recovery_level == 1
        async with working(lun, workers=damage.workers, size=damage.size) as load:
            await anyio.sleep(seconds)  # a real target's timers run in real time
            await until(lambda: all(rule.done for rule in rules) and load.done > 60, 60)
        assert lun.session.statistics.losses == 0, lun.session.last_error


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_repaired_within_the_connection(
    lio: LioServer, tmp_path: Path, name: str
) -> None:
    await damage_under_load(lio, DAMAGES[name], 1.0, tmp_path / "trace.pcapng")


@pytest.mark.soak
@pytest.mark.parametrize("name", DAMAGES)
async def test_much_damage_is_repaired_within_the_connection(lio: LioServer, name: str) -> None:
    await damage_under_load(lio, DAMAGES[name], 30.0)
