# SPDX-License-Identifier: Apache-2.0
"""Random workloads on an iSCSI LUN do what they do on a device of memory, whatever is in between.

The LUN is on a Python target in the same loop, with odd limits and a connection that is cut now and
then. Steps run one after another, or several at once on ranges that do not touch. The conformance
kit of the block device interface runs on LUNs too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyscsi_init import BlockDevice, RamDevice, Settings
from pyscsi_init.device.conformance_kit import check_block_device
from pyscsi_init.testing import RamDisk, Session, Target
from pyscsi_init.transport import recovery
from tests.support.python_target import PATIENCE, make_target, opened

SIZE = 96 * 1024
LOOPS = ("asyncio", "trio")


@dataclass(frozen=True)
class Step:
    """One request, and whether the connection is cut while it is under way."""

    operation: str
    offset: int
    length: int
    fill: int
    cut_after: int | None

    @property
    def end(self) -> int:
        return self.offset + self.length

    def data(self) -> bytes:
        """Not periodic in any power of two, so that a block in the wrong place shows."""
        return bytes((self.fill + index * 7 + index // 251) % 256 for index in range(self.length))


@st.composite
def steps(draw: st.DrawFn) -> Step:
    operation = draw(
        st.sampled_from(("write", "write", "write", "fua", "read", "zero", "discard", "flush"))
    )
    offset = draw(st.integers(0, SIZE - 1) | st.integers(0, SIZE // 4096 - 1).map((4096).__mul__))
    length = draw(st.integers(1, 700) | st.sampled_from((512, 4096, 8192)) | st.integers(1, SIZE))
    cut = draw(st.none() | st.none() | st.integers(1, 12))
    return Step(operation, offset, min(length, SIZE - offset), draw(st.integers(0, 255)), cut)


def batches() -> st.SearchStrategy[list[list[Step]]]:
    """Requests of one batch run at the same time."""
    return st.lists(st.lists(steps(), min_size=1, max_size=5), min_size=1, max_size=6)


@dataclass(frozen=True)
class Conditions:
    """What target and initiator agree on, and what the unit says that it takes."""

    block_size: int
    thin: bool
    initial_r2t: bool
    immediate_data: bool
    segment: int
    first_burst: int
    max_burst: int
    outstanding: int
    window: int
    transfer: int
    digest: str
    collapse: bool

    def target(self) -> Target:
        return make_target(
            RamDisk(SIZE, block_size=self.block_size, thin=self.thin, write_cache=True),
            initial_r2t=self.initial_r2t,
            immediate_data=self.immediate_data,
            max_recv_data_segment_length=self.segment,
            first_burst_length=min(self.first_burst, self.max_burst),
            max_burst_length=self.max_burst,
            max_outstanding_r2t=self.outstanding,
            command_window=self.window,
            phase_collapse=self.collapse,
            unit_attention_on_login=True,
        )

    def settings(self) -> Settings:
        return Settings(
            recovery_timeout=None,
            default_time2wait=0,
            initial_r2t=self.initial_r2t,
            immediate_data=self.immediate_data,
            max_recv_data_segment_length=self.segment,
            max_transfer_bytes=self.transfer,
            header_digest=(self.digest,),
            data_digest=(self.digest,),
        )


def conditions() -> st.SearchStrategy[Conditions]:
    lengths = st.sampled_from((512, 516, 1000, 1023, 4096, 65536))
    return st.builds(
        Conditions,
        block_size=st.sampled_from((512, 4096)),
        thin=st.booleans(),
        initial_r2t=st.booleans(),
        immediate_data=st.booleans(),
        segment=lengths,
        first_burst=lengths,
        max_burst=lengths,
        outstanding=st.integers(1, 4),
        window=st.integers(1, 16),
        transfer=st.sampled_from((1, 4096, 12288, 65536, 0)),
        digest=st.sampled_from(("None", "CRC32C")),
        collapse=st.booleans(),
    )


async def run_step(device: BlockDevice, step: Step, *, discards: bool) -> bytes:
    """Do one step; gives what a read read. A discard of a part of a block is left out on both
    sides: what happens to the edges is the device's affair."""
    if step.operation in ("write", "fua"):
        await device.write(step.offset, step.data(), fua=step.operation == "fua")
    elif step.operation == "read":
        return await device.read(step.offset, step.length)
    elif step.operation == "zero":
        await device.write_zeroes(step.offset, step.length)
    elif step.operation == "flush":
        await device.flush()
    elif discards:
        first, end = -(-step.offset // 4096) * 4096, step.end // 4096 * 4096
        if first < end:
            await device.discard(first, end - first)
    return b""


def apart(batch: list[Step]) -> list[Step]:
    """The steps of a batch that do not touch an earlier one: the others have no defined order."""
    kept: list[Step] = []
    for step in batch:
        # A request of odd alignment reads and writes back the blocks at its edges, but the device
        # orders such requests itself; so only the bytes themselves count here.
        if step.operation == "flush" or all(
            step.end <= other.offset or other.end <= step.offset
            for other in kept
            if other.operation != "flush"
        ):
            kept.append(step)
    return kept


async def compare(
    plan: list[list[Step]], given_conditions: Conditions, target: Target | None = None
) -> None:
    """The same plan on the LUN and on memory; every read and the whole content must be the same."""
    target = target or given_conditions.target()
    memory = RamDevice(SIZE, any_alignment=True)
    discards = given_conditions.thin

    async with opened(target, given_conditions.settings()) as lun, memory:
        with anyio.fail_after(PATIENCE):
            for batch in plan:
                together = apart(batch)
                results: dict[int, bytes] = {}

                async def one(index: int, step: Step, results: dict[int, bytes] = results) -> None:
                    results[index] = await run_step(lun, step, discards=discards)

                cut = next((step.cut_after for step in together if step.cut_after), None)
                if cut is not None and target.sessions:
                    target.faults.drop_after_received = target.sessions[0].connection.received + cut
                async with anyio.create_task_group() as group:
                    for index, step in enumerate(together):
                        group.start_soon(one, index, step)
                for index, step in enumerate(together):
                    expected = await run_step(memory, step, discards=discards)
                    assert results[index] == expected, step
            target.faults.clear()
            content = await memory.read(0, SIZE)
            assert await lun.read(0, SIZE) == content
            await lun.flush()
        assert target.luns[0].disk.read(0, SIZE) == content


@pytest.fixture(autouse=True)
def _no_pause_between_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(recovery, "LONGEST_DELAY", 0.001)


@pytest.mark.parametrize("loop", LOOPS)
@settings(max_examples=60)
@given(plan=batches(), given_conditions=conditions())
def test_a_lun_is_a_device_of_memory(
    loop: str, plan: list[list[Step]], given_conditions: Conditions
) -> None:
    anyio.run(compare, plan, given_conditions, backend=loop)


@pytest.mark.soak
@pytest.mark.parametrize("loop", LOOPS)
@given(plan=batches(), given_conditions=conditions())
def test_a_lun_is_a_device_of_memory_for_long(
    loop: str, plan: list[list[Step]], given_conditions: Conditions
) -> None:
    anyio.run(compare, plan, given_conditions, backend=loop)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "block_size"),
    [
        ("thin", 512),
        ("thin", 4096),
        ("thick", 512),
        ("read-only", 4096),
        ("small-limits", 4096),
        ("dying", 512),
        ("dying", 4096),
    ],
)
async def test_the_conformance_kit_passes_on_a_lun(kind: str, block_size: int) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[BlockDevice]:
        disk = RamDisk(
            1 << 20, block_size=block_size, thin=kind == "thin", read_only=kind == "read-only"
        )
        target = make_target(disk, command_window=8 if kind == "small-limits" else 128)
        session_settings = Settings(
            recovery_timeout=None,
            default_time2wait=0,
            max_transfer_bytes=3 * block_size if kind == "small-limits" else 0,
            queue_depth=3 if kind == "small-limits" else 128,
        )
        async with opened(target, session_settings) as lun:
            if kind == "dying":
                lives = iter((60, 20, 13, 40, 16, 100, 30, 70))

                life = [next(lives)]

                def die(session: Session, _: object) -> None:
                    if session.connection.received >= life[0]:
                        life[0] = next(lives, 1 << 30)
                        session.drop()

                target.faults.on_receive = die
            yield lun

    ran = await check_block_device(make)
    assert ("check_random_workload" in ran) is (kind != "read-only")


class _LosingDisk(RamDisk):
    """Loses the third write that it gets."""

    writes = 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if self.writes != 3:
            super().write(offset, data)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_comparison_can_fail(loop: str) -> None:
    plan = [[Step("write", number * 8192 + 512, 3000, number, None)] for number in range(8)]
    honest = Conditions(512, False, False, True, 4096, 4096, 65536, 1, 8, 0, "None", True)
    anyio.run(compare, plan, honest, backend=loop)
    lossy = honest.target()
    lossy.luns[0].disk = _LosingDisk(SIZE, serial=lossy.luns[0].disk.serial)
    with pytest.raises(AssertionError):
        anyio.run(compare, plan, honest, lossy, backend=loop)
