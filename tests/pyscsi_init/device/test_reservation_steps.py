# SPDX-License-Identifier: Apache-2.0
"""What becomes of a reservation command whose connection died: found out, or not known."""

from __future__ import annotations

import anyio
import pytest

from pyscsi_init.errors import (
    OutcomeUnknown,
)
from pyscsi_init.scsi import (
    PersistentReserveIn,
    TransportId,
)
from tests.pyscsi_init.device.two_nodes import (
    B_ISID,
    B_NAME,
    CLEAR,
    IN,
    MOVE,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    RELEASE,
    RESERVE,
    RESET,
    WE,
    WE_AR,
    A,
    B,
    holder,
    keys,
    lose,
    nodes,
)

pytestmark = pytest.mark.anyio


@pytest.mark.conformance("SCSI-032")
@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_register_succeeds_only_if_it_was_done(done: bool) -> None:
    async with nodes() as (target, a, b):
        lose(target, REGISTER, done=done)
        if done:
            await a.reservations.register(A)
            await a.reservations.reserve(A, WE)
        else:
            with pytest.raises(OutcomeUnknown, match="not registered now"):
                await a.reservations.register(A)
        assert await keys(b) == ({A} if done else set())
        assert target.counters.task_management[RESET] == 1


@pytest.mark.conformance("SCSI-032")
async def test_a_lost_register_does_not_undo_a_fence() -> None:
    """It was done, and another node removed it before we were back: it stays removed."""
    async with nodes() as (target, a, b):
        await b.reservations.register(B)
        lost = lose(target, REGISTER, done=True)
        target.faults.refuse_logins = [(3, 1)] * 2
        async with anyio.create_task_group() as tasks:

            async def register() -> None:
                with pytest.raises(OutcomeUnknown, match="only if this node may"):
                    await a.reservations.register(A)

            tasks.start_soon(register)
            await lost.wait()
            await b.reservations.preempt(B, A, WE)
        assert await keys(b) == {B}


@pytest.mark.parametrize("shared", [True, False])
async def test_the_same_key_of_another_node_does_not_count(shared: bool) -> None:
    async with nodes() as (target, a, b):
        await b.reservations.register(A if shared else B)
        lose(target, REGISTER, done=False)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.register(A)


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_unregister_ends_unregistered(done: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        lose(target, REGISTER, done=done)
        await a.reservations.unregister(A)
        assert await keys(b) == set()


@pytest.mark.parametrize("action", ["reserve", "release"])
@pytest.mark.parametrize("done", [True, False])
async def test_reserve_and_release_are_sent_again(action: str, done: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        if action == "release":
            await a.reservations.reserve(A, WE)
        rule = lose(target, RESERVE if action == "reserve" else RELEASE, done=done)
        await getattr(a.reservations, action)(A, WE)
        assert len(rule.caught) == 1
        assert await holder(b) == ((A, WE) if action == "reserve" else None)


async def test_what_all_registrants_hold_is_not_released_twice() -> None:
    async with nodes() as (target, a, _):
        await a.reservations.register(A)
        await a.reservations.reserve(A, WE_AR)
        lose(target, RELEASE, done=True)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.release(A, WE_AR)


@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_clear(done: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        await b.reservations.register(B)
        lose(target, CLEAR, done=done)
        await a.reservations.clear(A)
        assert await keys(b) == set()


async def test_a_lost_clear_among_others() -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        lost = lose(target, CLEAR, done=True)
        target.faults.refuse_logins = [(3, 1)] * 2
        async with anyio.create_task_group() as tasks:

            async def clear() -> None:
                with pytest.raises(OutcomeUnknown, match="registered now: 0x000000000000000b"):
                    await a.reservations.clear(A)

            tasks.start_soon(clear)
            await lost.wait()
            await b.reservations.register(B)


@pytest.mark.conformance("SCSI-032")
@pytest.mark.parametrize("abort", [True, False])
@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_preempt(done: bool, abort: bool) -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        await a.reservations.reserve(A, WE)
        await b.reservations.register(B)
        lose(target, PREEMPT_AND_ABORT if abort else PREEMPT, done=done)
        preempt = b.reservations.preempt_and_abort if abort else b.reservations.preempt
        if done:
            await preempt(B, A, WE)
        else:
            with pytest.raises(OutcomeUnknown, match=r"held by 0x0+a"):
                await preempt(B, A, WE)
        assert await holder(b) == ((B, WE) if done else (A, WE))


async def test_a_lost_move_is_not_known() -> None:
    async with nodes() as (target, a, b):
        await a.reservations.register(A)
        await a.reservations.reserve(A, WE)
        lose(target, MOVE, done=True)
        to_b = TransportId(initiator_name=B_NAME, isid=B_ISID)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.register_and_move(A, B, to_b, 1)
        assert await holder(b) == (B, WE)


async def test_questions_are_asked_again() -> None:
    async with nodes() as (target, a, _):
        for action in PersistentReserveIn:
            lose(target, action, done=False, opcode=IN)
        assert await keys(a) == set()
        assert await holder(a) is None
        await a.reservations.report_capabilities()
        await a.reservations.read_full_status()


async def test_a_read_only_unit_is_not_reset_so_nothing_is_found_out() -> None:
    async with nodes(read_only=True) as (target, a, _):
        await a.reservations.register(A)
        for action in (REGISTER, RESERVE, CLEAR, PREEMPT):
            lose(target, action, done=True)
        with pytest.raises(OutcomeUnknown, match="died under"):
            await a.reservations.register(0xA2, old_key=A)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.reserve(0xA2, WE)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.preempt(0xA2, B, WE)
        with pytest.raises(OutcomeUnknown):
            await a.reservations.clear(0xA2)
        assert target.counters.task_management[RESET] == 0
