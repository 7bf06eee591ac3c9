# SPDX-License-Identifier: Apache-2.0
"""Fencing between nodes on the Python target: who writes, who is refused, who is fenced off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Fencing, LogicalUnit, UnitRecord
from pyscsi_init.device import node_key
from pyscsi_init.device.fence import KIND
from pyscsi_init.errors import (
    Fenced,
    HeldByAnother,
    OutcomeUnknown,
    ReservationConflict,
    Unsupported,
)
from pyscsi_init.scsi import Opcode, ReservationType
from pyscsi_init.testing import RamDisk, Target, TargetServer
from tests.pyscsi_init.device.two_nodes import (
    A_ISID,
    A_NAME,
    B_NAME,
    BLOCK,
    EA,
    FAR,
    IN,
    OUT,
    PREEMPT_AND_ABORT,
    RESERVE,
    RESET,
    A,
    holder,
    keys,
)
from tests.support.logs import ExpectLogs
from tests.support.python_target import MEBI, PATIENCE, WAIT, make_target, opened, url_of

pytestmark = pytest.mark.anyio

AUTO, TAKE_OVER = Fencing(), Fencing(take_over=True)
A_KEY, B_KEY = node_key(A_NAME), node_key(B_NAME)


class Scene:
    """The target, and any node that wants its LUN."""

    def __init__(self, target: Target, url: str) -> None:
        self.target, self.url = target, url

    def open(
        self, name: str, fencing: Fencing | None = AUTO, **kw: Any
    ) -> Any:  # an async context manager
        return pyscsi_init.open_lun(
            self.url, initiator_name=name, settings=WAIT, fencing=fencing, **kw
        )

    @property
    def table(self) -> Any:
        """What the unit knows of reservations."""
        return self.target.luns[0].reservations

    def forget(self) -> None:
        """The target is started anew."""
        self.table.keys.clear()
        self.table.type, self.table.holder, self.table.generation = 0, None, 0
        self.target.drop_connections()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    target = make_target(RamDisk(4 * MEBI))
    with anyio.fail_after(6 * PATIENCE):
        async with TargetServer([target]).running() as portal:
            yield Scene(target, url_of(portal.address))


def test_the_key_is_the_node_s() -> None:
    assert A_KEY == node_key(A_NAME) != B_KEY
    assert 0 < A_KEY < 1 << 64


async def test_one_writes_and_all_read() -> None:
    async with scene() as made:
        async with made.open(A_NAME) as a:
            await _one_writes_and_all_read(made, a)
        assert (made.table.keys, made.table.type) == ({}, 0)
        async with made.open(B_NAME) as b:
            await b.write(FAR, b"b" * BLOCK)


async def _one_writes_and_all_read(made: Scene, a: LogicalUnit) -> None:
    assert a.fence is not None
    assert (a.fence.key, a.fence.held) == (A_KEY, True)
    assert (await keys(a), await holder(a)) == ({A_KEY}, (A_KEY, KIND))
    await a.write(FAR, b"a" * BLOCK)
    async with made.open(B_NAME, None) as b:
        assert b.fence is None
        assert await b.read(FAR, 1) == b"a"
        with pytest.raises(ReservationConflict):
            await b.write(FAR, b"b" * BLOCK)
    async with made.open(B_NAME, read_only=True) as b:
        assert b.fence is None
        assert await b.read(FAR, 1) == b"a"
    assert await keys(a) == {A_KEY}
    with pytest.raises(HeldByAnother, match="--take-over") as refused:
        async with made.open(B_NAME):
            pass
    assert refused.value.key == A_KEY
    assert refused.value.ports[0].startswith(f"{A_NAME},i,0x")
    await a.write(FAR, b"a" * BLOCK)


@pytest.mark.parametrize("abort", [True, False])
async def test_a_takeover_fences_the_other_node_off(abort: bool, expect_logs: ExpectLogs) -> None:
    """Also where the unit has no PREEMPT AND ABORT: a reset follows in any case."""
    expect_logs("was taken over", logger="pyscsi_init.session")
    async with scene() as made, made.open(A_NAME) as a:
        await a.write(FAR, b"a" * BLOCK)
        if not abort:
            made.target.faults.check_condition(
                5, 0x24, 0, opcodes={OUT}, when=lambda f: f.cdb[1] & 0x1F == PREEMPT_AND_ABORT
            )
        resets = made.target.counters.task_management[RESET]
        async with made.open(B_NAME, TAKE_OVER) as b:
            assert made.target.counters.task_management[RESET] == resets + 1
            assert (await keys(b), await holder(b)) == ({B_KEY}, (B_KEY, KIND))
            await b.write(FAR, b"b" * BLOCK)
            with pytest.raises(Fenced, match="taken over by") as fenced:
                await a.write(FAR, b"a" * BLOCK)
            assert fenced.value.key == B_KEY
            assert fenced.value.ports[0].startswith(B_NAME)
            assert a.session.failed is fenced.value
            assert not a.fence.held
            with pytest.raises(Fenced):
                await a.read(FAR, 1)
            await b.write(FAR, b"b" * BLOCK)
        await a.aclose()
    assert made.table.keys == {}


async def test_what_waits_is_not_sent_after_a_takeover(expect_logs: ExpectLogs) -> None:
    """The connection dies under a write, and another node has the unit when ours is back. No reset
    of ours disturbs that node."""
    expect_logs("was taken over", logger="pyscsi_init.session")
    async with scene() as made, made.open(A_NAME, isid=A_ISID) as a:
        target, table = made.target, made.table
        (nexus,) = table.keys
        other = type(nexus)(B_NAME, bytes(6), *_rest(nexus))

        def taken_over(_facts: Any) -> bool:
            table.keys, table.holder = {other: B_KEY}, other
            return True

        target.faults.drop(carry_out=False, opcodes={Opcode.WRITE_10}, when=taken_over)
        resets = target.counters.task_management[RESET]
        with pytest.raises(Fenced):
            await a.write(FAR, b"a" * BLOCK)
        assert target.counters.task_management[RESET] == resets
        assert bytes(target.luns[0].disk.read(FAR, 1)) == bytes(1)
        assert isinstance(a.session.failed, Fenced)


@pytest.mark.parametrize("unknown", [0x20, 0x24])
async def test_a_target_without_reservations(unknown: int) -> None:
    async with scene() as made:
        made.target.faults.check_condition(5, unknown, 0, opcodes={IN, OUT}, times=1000)
        async with made.open(A_NAME) as a:
            assert a.fence is None
            await a.write(FAR, b"a" * BLOCK)
            made.target.drop_connections()
            await a.write(FAR, b"a" * BLOCK)
        with pytest.raises(Unsupported, match="fencing is required"):
            async with made.open(A_NAME, Fencing(required=True)):
                pass


async def test_a_node_finds_its_own_registration() -> None:
    """Under another ISID too; what its dead session has under way ends first."""
    async with scene() as made:
        async with made.open(A_NAME, isid=A_ISID) as a:
            a.keep_fence()
        assert list(made.table.keys.values()) == [A_KEY]
        with pytest.raises(HeldByAnother):
            async with made.open(B_NAME):
                pass
        resets = made.target.counters.task_management[RESET]
        async with made.open(A_NAME) as a:
            assert made.target.counters.task_management[RESET] == resets + 1
            await a.write(FAR, b"a" * BLOCK)
            assert list(made.table.keys.values()) == [A_KEY]
            a.give_back_all()
        assert (made.table.keys, made.table.type) == ({}, 0)


async def test_two_volumes_of_one_node_do_not_fence_each_other() -> None:
    """The second is refused as soon as it is known what it is; until then the first goes on."""
    async with scene() as made:
        async with made.open(A_NAME) as a:
            await a.write(FAR, b"1" * BLOCK)
            async with made.open(A_NAME):
                await a.write(FAR, b"2" * BLOCK)
            assert list(made.table.keys.values()) == [A_KEY]
            async with made.open(A_NAME):
                pass
            await a.write(FAR, b"3" * BLOCK)
            assert (await keys(a), await holder(a)) == ({A_KEY}, (A_KEY, KIND))
        assert (made.table.keys, made.table.type) == ({}, 0)


async def test_a_target_that_forgot_everything_is_reserved_again() -> None:
    async with scene() as made, made.open(A_NAME) as a:
        await a.write(FAR, b"1" * BLOCK)
        made.forget()
        await a.write(FAR, b"2" * BLOCK)
        assert (await keys(a), await holder(a)) == ({A_KEY}, (A_KEY, KIND))


async def test_a_node_that_came_and_left_is_seen(expect_logs: ExpectLogs) -> None:
    """No key is there either, but the unit has counted registrations since."""
    expect_logs("was taken over", logger="pyscsi_init.session")
    async with scene() as made, made.open(A_NAME) as a:
        await a.write(FAR, b"1" * BLOCK)
        made.forget()
        made.table.generation = 3
        with pytest.raises(Fenced, match="a node that has left"):
            await a.write(FAR, b"2" * BLOCK)


async def test_a_unit_that_does_not_count_is_never_taken_for_one_that_forgot(
    expect_logs: ExpectLogs,
) -> None:
    expect_logs("was taken over", logger="pyscsi_init.session")
    async with scene() as made, made.open(A_NAME) as a:
        assert a.fence is not None
        a.fence.generation = 0
        made.forget()
        with pytest.raises(Fenced):
            await a.write(FAR, b"2" * BLOCK)


async def test_a_lost_reservation_is_looked_at_before_the_repetition(
    expect_logs: ExpectLogs,
) -> None:
    """2A/05 and nobody holds the unit any more: the command could be sent again, and is not."""
    expect_logs("was taken over", logger="pyscsi_init.session")
    async with scene() as made, made.open(A_NAME) as a:
        async with made.open(B_NAME, TAKE_OVER) as b:
            await b.write(FAR, b"b" * BLOCK)
        with pytest.raises(Fenced):
            await a.write(FAR, b"a" * BLOCK)
        assert bytes(made.target.luns[0].disk.read(FAR, 1)) == b"b"


async def test_a_registration_that_is_gone_without_a_word_is_made_again() -> None:
    """Of this nexus alone, as on a target that takes each login for another nexus."""
    async with scene() as made, made.open(A_NAME) as a:
        (nexus,) = made.table.keys
        other = type(nexus)(nexus.initiator_name, bytes(6), *_rest(nexus))
        made.table.keys[other] = made.table.keys.pop(nexus)
        made.table.holder = other
        await a.write(FAR, b"a" * BLOCK)
        assert list(made.table.keys) == [nexus]
        assert made.table.holder == nexus


def _rest(nexus: Any) -> tuple[Any, ...]:
    return nexus.target_name, nexus.target_portal_group_tag


@pytest.mark.parametrize("take_over", [False, True])
async def test_reservations_of_other_types(take_over: bool) -> None:
    async with scene() as made, made.open(A_NAME, None) as a:
        await a.reservations.register(A)
        await a.reservations.reserve(A, EA)
        if not take_over:
            with pytest.raises(HeldByAnother, match="type 3h"):
                async with made.open(B_NAME):
                    pass
            assert await keys(a) == {A}
            return
        async with made.open(B_NAME, TAKE_OVER) as b:
            assert (await keys(b), await holder(b)) == ({B_KEY}, (B_KEY, KIND))
            with pytest.raises(ReservationConflict):
                await a.write(FAR, b"a" * BLOCK)


async def test_a_reservation_of_all_registrants_is_taken_over() -> None:
    async with scene() as made, made.open(A_NAME, None) as a:
        await a.reservations.register(A)
        await a.reservations.reserve(A, ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
        with pytest.raises(HeldByAnother):
            async with made.open(B_NAME):
                pass
        async with made.open(B_NAME, TAKE_OVER) as b:
            assert (await keys(b), await holder(b)) == ({B_KEY}, (B_KEY, KIND))


async def test_who_loses_the_race_leaves_no_trace() -> None:
    """Another node registers and reserves between our look and our reservation."""
    async with scene() as made, made.open(A_NAME, None) as a:
        await a.reservations.register(A)
        table = made.table
        mine = dict(table.keys)
        table.keys.clear()

        def raced(facts: Any) -> bool:
            if facts.cdb[1] & 0x1F == RESERVE and not table.type:
                table.keys.update(mine)
                (table.holder,) = mine
                table.type = int(KIND)
            return False

        made.target.faults.check_condition(5, 0x20, 0, opcodes={OUT}, when=raced, times=1000)
        with pytest.raises(HeldByAnother):
            async with made.open(B_NAME):
                pass
        assert await keys(a) == {A}


async def test_a_successor_goes_on_with_the_fence_or_finds_it_gone() -> None:
    async with scene() as made:
        async with made.open(A_NAME, isid=A_ISID) as a:
            a.keep_fence()
            record = UnitRecord.from_json(a.record().to_json())
        assert record.fence is not None
        async with made.open(A_NAME, TAKE_OVER, isid=A_ISID, predecessor=record) as a:
            assert a.fence is not None
            assert a.fence.held
            await a.write(FAR, b"a" * BLOCK)
            a.keep_fence()
        async with made.open(B_NAME, TAKE_OVER) as b:
            with pytest.raises(Fenced):
                async with made.open(A_NAME, TAKE_OVER, isid=A_ISID, predecessor=record):
                    pass
            await b.write(FAR, b"b" * BLOCK)


async def test_a_successor_of_one_without_a_fence_takes_none() -> None:
    async with scene() as made:
        async with made.open(A_NAME, None) as a:
            record = a.record()
        async with made.open(A_NAME, predecessor=record) as a:
            assert a.fence is None
        assert made.table.keys == {}


async def test_an_open_that_fails_or_is_cancelled_gives_back() -> None:
    async with scene() as made:
        held = made.target.faults.hold(opcodes={Opcode.READ_10})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.open(A_NAME).__aenter__)
            await held.wait()
            assert list(made.table.keys.values()) == [A_KEY]
            tasks.cancel_scope.cancel()
        held.release()
        assert (made.table.keys, made.table.type) == ({}, 0)
        made.target.faults.check_condition(3, 0x11, 0, opcodes={Opcode.READ_10}, times=1)
        with pytest.raises(pyscsi_init.errors.MediumError):
            async with made.open(A_NAME):
                pass
        assert (made.table.keys, made.table.type) == ({}, 0)


async def test_a_command_without_data_out_that_writes_is_no_other_disk() -> None:
    """WRITE SAME with NDOB over the disk's label, and the connection dies with it."""
    label = bytes(512) + b"EFI PART" + bytes(48) + b"A" * 16
    disk = RamDisk(4 * MEBI)
    disk.write(0, label.ljust(1024, b"\0"))
    target = make_target(disk)
    async with opened(target) as a:
        write_same = bytes([Opcode.WRITE_SAME_16, 0x01, *bytes(8), 0, 0, 0, 8, 0, 0])

        def wipe(facts: Any) -> bool:
            disk.write(0, bytes(4096))
            return True

        target.faults.drop(carry_out=False, opcodes={Opcode.WRITE_SAME_16}, when=wipe)
        with pytest.raises(OutcomeUnknown):
            await a.execute(write_same)
        assert await a.read(FAR, BLOCK) == bytes(BLOCK)


async def test_a_raw_command_may_meet_the_conflict(
    expect_logs: ExpectLogs,
) -> None:
    expect_logs("was taken over", logger="pyscsi_init.session")
    async with scene() as made, made.open(A_NAME) as a, made.open(B_NAME, TAKE_OVER):
        with pytest.raises((ReservationConflict, pyscsi_init.errors.UnitAttention)):
            await a.execute(bytes([0x2A, 0, 0, 0, 8, 0, 0, 0, 1, 0]), data_out=bytes(512))
        with pytest.raises(Fenced):
            await a.write(FAR, b"a" * BLOCK)
