# SPDX-License-Identifier: Apache-2.0
"""Each misbehaviour does what it is called, once asked for and not before."""

from __future__ import annotations

import anyio
import pytest

from pyscsi_init.errors import HeaderDigestError
from pyscsi_init.pdu import AsyncMessage, NopIn, NopOut, Pdu, Reject, ScsiResponse
from pyscsi_init.testing import (
    READS,
    CommandFacts,
    Faults,
    RamDisk,
    Session,
    Target,
    TargetServer,
    TargetSettings,
)
from tests.pyscsi_init.testing.raw_initiator import (
    TEST_UNIT_READY,
    RawInitiator,
    logged_in,
    read_10,
    write_10,
)

pytestmark = pytest.mark.anyio

IQN = "iqn.2024-01.example:disk"
OLD, NEW = b"old!" * 128, b"new!" * 128


def make_target(**settings: object) -> Target:
    return Target(
        IQN,
        luns={0: RamDisk(1 << 20), 1: RamDisk(1 << 20)},
        settings=TargetSettings(**settings),  # type: ignore[arg-type]
    )


def block(target: Target, lba: int = 0) -> bytes:
    return target.luns[0].disk.read(lba * 512, 512)


async def silence(initiator: RawInitiator) -> None:
    """Nothing comes: what could come follows an echo that is asked for now."""
    await initiator.send(NopOut(immediate=True, initiator_task_tag=0x7777, cmd_sn=initiator.cmd_sn))
    assert isinstance(await initiator.receive(), NopIn)


def facts(opcode: int = 0x2A, *, lun: int = 0, lba: int = 0, blocks: int = 1) -> CommandFacts:
    return CommandFacts(lun, opcode, lba, blocks, "iqn.2024-01.example:i", bytes((opcode,)))


@pytest.mark.parametrize(
    ("matching", "caught"),
    [
        ({}, [True, True, True]),
        ({"lun": 1}, [False, False, True]),
        ({"opcodes": READS}, [False, True, False]),
        ({"lba": 9}, [True, False, False]),
        ({"lba": range(12, 100)}, [False, True, True]),
        ({"times": 1}, [True, False, False]),
        ({"skip": 1}, [False, True, True]),
        ({"when": lambda facts: facts.blocks == 4}, [False, True, False]),
    ],
)
def test_rules_match(matching: dict[str, object], caught: list[bool]) -> None:
    rule = Faults().hold(**matching)
    seen = [facts(lba=8, blocks=2), facts(0x28, lba=10, blocks=4), facts(lun=1, lba=50)]
    assert [rule.matches(one) for one in seen] == caught
    assert len(rule.caught) == sum(caught)


# Writes that land later


async def test_a_held_write_lands_when_it_is_released() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        held = target.faults.hold_writes(lba=0)
        tag = await initiator.start(write_10(0, 1), write=OLD)
        await held.wait()
        await silence(initiator)
        assert (held.held, block(target)) == (1, bytes(512))
        assert (await initiator.execute(write_10(1, 1), write=NEW)).status == 0, "others go on"
        held.release()
        assert (await initiator.finish(tag)).status == 0
        assert block(target) == OLD


@pytest.mark.parametrize("outlives", [True, False])
async def test_a_held_write_outlives_its_session(outlives: bool) -> None:
    """The old write lands on top of a newer one: login is no barrier."""
    target = make_target(writes_outlive_session=outlives)
    async with TargetServer([target]).running() as portal:
        held = target.faults.hold_writes(times=1)
        async with logged_in(portal, IQN) as first:
            await first.start(write_10(0, 1), write=OLD)
            await held.wait()
        async with logged_in(portal, IQN) as second:
            assert (await second.execute(write_10(0, 1), write=NEW)).status == 0
            assert await second.manage(2) == 0, "ABORT TASK SET does not reach the old nexus"
            held.release()
            await silence(second)
            assert block(target) == (OLD if outlives else NEW)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_reset_waits_for_the_writes_of_a_dead_session(waits: bool) -> None:
    target = make_target(reset_waits_for_writes=waits)
    async with TargetServer([target]).running() as portal:
        held = target.faults.hold_writes(times=1)
        async with logged_in(portal, IQN) as first:
            await first.start(write_10(0, 1), write=OLD)
            await held.wait()
        async with logged_in(portal, IQN) as second:
            if waits:
                await second.start_managing(5)
                await silence(second)
                held.release()
                assert (await second.receive()).opcode == 0x22
                assert block(target) == OLD, "the reset was answered after the write had landed"
                assert (await second.execute(TEST_UNIT_READY)).code == (6, 0x29, 3)
                assert (await second.execute(write_10(0, 1), write=NEW)).status == 0
                assert block(target) == NEW
            else:
                assert await second.manage(5) == 0
                assert (await second.execute(TEST_UNIT_READY)).code == (6, 0x29, 3)
                assert (await second.execute(write_10(0, 1), write=NEW)).status == 0
                held.release()
                assert block(target) == OLD, "a reset that is no barrier"


async def test_a_reset_of_another_unit_does_not_wait() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        held = target.faults.hold_writes(lun=0)
        await initiator.start(write_10(0, 1), write=OLD)
        await held.wait()
        assert await initiator.manage(5, lun=1) == 0
        held.release()


@pytest.mark.parametrize("stops", [True, False])
async def test_abort_task_and_a_held_write(stops: bool) -> None:
    target = make_target(abort_stops_writes=stops)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        held = target.faults.hold_writes()
        tag = await initiator.start(write_10(0, 1), write=OLD)
        await held.wait()
        assert await initiator.manage(1, referenced=tag) == 0
        held.release()
        await silence(initiator)
        assert block(target) == (bytes(512) if stops else OLD)


async def test_some_of_the_held_commands() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        held = target.faults.hold_writes()
        tags = [await initiator.start(write_10(lba, 1), write=NEW) for lba in range(3)]
        await held.wait(3)
        held.release(1, keep=True)
        await initiator.finish(tags[0])
        assert [block(target, lba) == NEW for lba in range(3)] == [True, False, False]
        late = await initiator.start(write_10(3, 1), write=NEW)
        await held.wait(4)
        held.release()
        for tag in (*tags[1:], late):
            assert (await initiator.finish(tag)).status == 0


async def test_delayed_and_late() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.delay_writes(0.01, times=1)
        tag = await initiator.start(write_10(0, 1), write=OLD)
        await silence(initiator)
        assert block(target) == bytes(512)
        await initiator.finish(tag)
        assert block(target) == OLD
        late = target.faults.answer_late(0.01, times=1)
        tag = await initiator.start(write_10(0, 1), write=NEW)
        await late.wait()
        await silence(initiator)
        assert block(target) == NEW, "done, and not answered yet"
        assert (await initiator.finish(tag)).status == 0


# Answers


@pytest.mark.parametrize("status", [0x08, 0x28])
async def test_busy_for_some_times(status: int) -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.status(status, times=2, opcodes={0x2A})
        found = [(await initiator.execute(write_10(0, 1), write=NEW)).status for _ in range(3)]
        assert found == [status, status, 0]


async def test_never_answered() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.never_answer(times=1)
        target.faults.never_answer(carry_out=True, times=1)
        for carried_out in (False, True):
            tag = await initiator.start(write_10(0, 1), write=NEW)
            await silence(initiator)
            assert (block(target) == NEW) is carried_out
            assert await initiator.manage(1, referenced=tag) == 0


async def test_other_endings() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.check_condition(3, 0x11, 0, information=1234)
        answer = await initiator.execute(read_10(0, 1), read=512)
        assert (answer.code, answer.underflow) == ((3, 0x11, 0), 512)
        assert int.from_bytes(answer.sense[3:7], "big") == 1234
        target.faults.response(1)
        assert (await initiator.execute(read_10(0, 1), read=512)).response == 1
        target.faults.short_data(100)
        answer = await initiator.execute(read_10(0, 1), read=512)
        assert (len(answer.data), answer.underflow) == (412, 100)
        target.faults.reject(0x0C)
        tag = await initiator.start(TEST_UNIT_READY)
        reject = await initiator.receive()
        assert isinstance(reject, Reject)
        assert (reject.reason, int.from_bytes(reject.data[16:20], "big")) == (0x0C, tag)
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0


@pytest.mark.parametrize("carry_out", [True, False])
async def test_dropped_instead_of_answered(carry_out: bool) -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.drop(carry_out=carry_out)
        await initiator.start(write_10(0, 1), write=NEW)
        assert await initiator.closed()
        assert (block(target) == NEW) is carry_out
        assert target.sessions == []


async def test_dropped_after_so_many_pdus() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal:
        for fault in ("drop_after_received", "drop_after_sent"):
            async with logged_in(portal, IQN) as initiator:
                setattr(target.faults, fault, 3)
                for _ in range(2):
                    assert (await initiator.execute(TEST_UNIT_READY)).status == 0
                tag = await initiator.start(TEST_UNIT_READY)
                if fault == "drop_after_sent":
                    assert (await initiator.finish(tag)).status == 0
                assert await initiator.closed()


async def test_one_wrong_digest() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal:
        async with logged_in(portal, IQN, HeaderDigest="CRC32C") as initiator:
            target.faults.corrupt_header_digests = 1
            await initiator.start(TEST_UNIT_READY)
            with pytest.raises(HeaderDigestError):
                await initiator.receive()
        async with logged_in(portal, IQN, DataDigest="CRC32C") as initiator:
            target.faults.corrupt_data_digests = 1
            await initiator.start(read_10(0, 1), read=512)
            with pytest.raises(AssertionError, match="wrong data digest"):
                await initiator.receive()
        async with logged_in(portal, IQN, DataDigest="CRC32C") as initiator:
            assert (await initiator.execute(read_10(0, 1), read=512)).data == bytes(512)


async def test_a_wrong_digest_from_the_initiator() -> None:
    target = make_target()
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, DataDigest="CRC32C") as initiator,
    ):
        header = bytearray(48)
        header[0:2] = b"\x01\xa1"
        header[7] = 4
        header[20:24] = (512).to_bytes(4, "big")
        header[24:28] = initiator.cmd_sn.to_bytes(4, "big")
        header[32] = 0x2A
        await initiator.stream.send(bytes(header) + b"data" + b"sum!")
        reject = await initiator.receive()
        assert isinstance(reject, Reject)
        assert (reject.reason, initiator.exp_cmd_sn) == (2, initiator.cmd_sn), "not consumed"
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0


# Sessions


async def test_silence() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.silent = True
        await initiator.start(TEST_UNIT_READY)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.05):
                await initiator.receive()


async def test_refused_logins() -> None:
    target = make_target()
    target.faults.refuse_logins = [(3, 1), (3, 2)]
    async with TargetServer([target]).running() as portal:
        for _ in range(2):
            with pytest.raises(AssertionError, match=r"\(3, \d\)"):
                async with logged_in(portal, IQN):
                    pass
        async with logged_in(portal, IQN):
            pass


async def test_asynchronous_messages() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.sessions[0].async_message(1, parameters=(0, 0, 3))
        message = await initiator.receive()
        assert isinstance(message, AsyncMessage)
        assert (message.async_event, message.parameter3) == (1, 3)


async def test_a_hook_replaces_what_is_sent() -> None:
    target = make_target()

    def lie(_session: Session, pdu: Pdu) -> list[Pdu] | None:
        if isinstance(pdu, ScsiResponse):
            pdu.status = 0x40
            return [pdu]
        return None

    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.on_send = lie
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0x40
        target.faults.on_send = None
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0


async def test_a_hook_keeps_a_pdu_from_being_acted_upon() -> None:
    target = make_target()
    seen: list[int] = []

    def swallow(_session: Session, pdu: Pdu) -> bool:
        seen.append(pdu.opcode)
        return isinstance(pdu, NopOut)

    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.on_receive = swallow
        await initiator.send(NopOut(immediate=True, initiator_task_tag=5, cmd_sn=initiator.cmd_sn))
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0
        assert seen == [0x00, 0x01]


async def test_clearing_makes_honest() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.status(8, times=100)
        target.faults.ignore_nop_out = True
        target.faults.clear()
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0
        await silence(initiator)
