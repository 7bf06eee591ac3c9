# SPDX-License-Identifier: Apache-2.0
"""The target at error recovery levels 1 and 2, as an initiator sees it that shares none of our
session code."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pyscsi_init.pdu import (
    DataIn,
    DataOut,
    InitiatorOpcode,
    NopIn,
    NopOut,
    Pdu,
    ReadyToTransfer,
    Reject,
    ScsiResponse,
    SnackRequest,
    SnackType,
    TaskManagementRequest,
    TaskManagementResponse,
)
from pyscsi_init.testing import RamDisk, Target, TargetServer, TargetSettings
from tests.support.waiting import until

from .raw_initiator import RawInitiator, connected, logged_in, read_10, write_10

pytestmark = pytest.mark.anyio

NAME = "iqn.2024-01.example:levels"
DATA = os.urandom(8192)
RETAIN = {"DefaultTime2Retain": "20"}


@asynccontextmanager
async def served(level: int, **settings: object) -> AsyncIterator[tuple[Target, RawInitiator]]:
    disk = RamDisk(1 << 20)
    disk.write(0, DATA)
    settings.setdefault("phase_collapse", False)
    settings.setdefault("max_data_in_segment", 1024)
    values = TargetSettings(
        error_recovery_level=level,
        default_time2retain=20,
        **settings,  # type: ignore[arg-type]
    )
    target = Target(NAME, luns={0: disk}, settings=values)
    async with TargetServer([target]).running() as portal:
        keys = {"ErrorRecoveryLevel": str(level), "MaxOutstandingR2T": "1", **RETAIN}
        async with logged_in(portal, NAME, **keys) as initiator:
            yield target, initiator


async def receive(initiator: RawInitiator, count: int) -> list[Pdu]:
    return [await initiator.receive() for _ in range(count)]


async def again(initiator: RawInitiator, kind: SnackType, **fields: int) -> None:
    exp_stat_sn = fields.pop("exp_stat_sn", initiator.exp_stat_sn)
    await initiator.send(SnackRequest(type=kind, exp_stat_sn=exp_stat_sn, **fields))


async def test_data_and_status_are_sent_again_until_they_are_acknowledged() -> None:
    async with served(1) as (_, initiator):
        tag = await initiator.start(read_10(0, 8), read=4096)
        before = initiator.exp_stat_sn
        first = await receive(initiator, 5)
        data = {"initiator_task_tag": tag, "exp_stat_sn": before}
        await again(initiator, SnackType.DATA_R2T, beg_run=1, run_length=2, **data)
        assert await receive(initiator, 2) == first[1:3]
        await again(initiator, SnackType.DATA_R2T, beg_run=3, **data)
        assert await receive(initiator, 1) == first[3:4]
        initiator.exp_stat_sn = before
        await again(initiator, SnackType.STATUS, beg_run=before, run_length=1, exp_stat_sn=before)
        assert await receive(initiator, 1) == first[4:]
        await again(initiator, SnackType.STATUS, beg_run=before + 1, run_length=1)
        await initiator.send(
            NopOut(
                immediate=True,
                initiator_task_tag=77,
                cmd_sn=initiator.cmd_sn,
                exp_stat_sn=initiator.exp_stat_sn,
            )
        )
        assert isinstance(await initiator.receive(), NopIn), "not sent yet: nothing comes"
        await again(initiator, SnackType.DATA_R2T, initiator_task_tag=tag, beg_run=0, run_length=1)
        reject = await initiator.receive()
        assert isinstance(reject, Reject)
        assert reject.reason == 4


async def test_acknowledged_data_is_not_sent_again() -> None:
    async with served(1, acknowledge_data=True, max_burst_length=2048) as (_, initiator):
        tag = await initiator.start(read_10(0, 8), read=4096)
        before = initiator.exp_stat_sn
        pdus = await receive(initiator, 5)
        asked = [pdu for pdu in pdus if isinstance(pdu, DataIn) and pdu.acknowledge]
        assert [pdu.data_sn for pdu in asked] == [1]
        tags = {"target_transfer_tag": asked[0].target_transfer_tag, "exp_stat_sn": before}
        await again(initiator, SnackType.DATA_ACK, beg_run=2, **tags)
        data = {"initiator_task_tag": tag, "exp_stat_sn": before}
        await again(initiator, SnackType.DATA_R2T, beg_run=1, run_length=1, **data)
        reject = await initiator.receive()
        assert isinstance(reject, Reject)
        assert reject.reason == 4
        await again(initiator, SnackType.DATA_R2T, **data)
        assert await receive(initiator, 2) == pdus[2:4], "all that is not acknowledged"


async def test_data_is_cut_anew() -> None:
    async with served(1) as (target, initiator):
        tag = await initiator.start(read_10(0, 8), read=4096)
        before = initiator.exp_stat_sn
        old = await receive(initiator, 5)
        target.sessions[0].parameters.initiator_max_recv_data_segment_length = 2048
        initiator.exp_stat_sn = before
        await again(
            initiator,
            SnackType.R_DATA,
            initiator_task_tag=tag,
            target_transfer_tag=9,
            exp_stat_sn=before,
        )
        *data, response = await receive(initiator, 3)
        assert b"".join(pdu.data for pdu in data) == DATA[:4096]
        assert [pdu.data_sn for pdu in data if isinstance(pdu, DataIn)] == [0, 1]
        assert isinstance(response, ScsiResponse)
        assert isinstance(old[4], ScsiResponse)
        assert (response.snack_tag, response.stat_sn) == (9, old[4].stat_sn)


@pytest.mark.parametrize("which", [0, 1, 3])
@pytest.mark.parametrize("damaged", [True, False])
async def test_lost_data_out_is_asked_for_again(which: int, damaged: bool) -> None:
    settings = {"immediate_data": False, "initial_r2t": True, "sequence_timeout": 0.05}
    async with served(1, **settings) as (target, initiator):
        initiator.immediate, initiator.segment = False, 1024
        rule = target.faults.damage if damaged else target.faults.withhold
        caught = rule(InitiatorOpcode.DATA_OUT, sent=False, skip=which)
        data = os.urandom(4096)
        tag = await initiator.start(write_10(16, 8), write=data, final=True)
        r2ts: list[ReadyToTransfer] = []
        while not isinstance(pdu := await initiator.receive(), ScsiResponse):
            if isinstance(pdu, ReadyToTransfer):
                r2ts.append(pdu)
                await initiator.answer_r2t(pdu, data)
            else:
                assert isinstance(pdu, Reject)
                assert pdu.reason == 2
        assert (pdu.status, pdu.initiator_task_tag, caught.caught) == (0, tag, 1)
        assert [each.r2t_sn for each in r2ts] == [0, 1]
        assert (r2ts[1].buffer_offset, r2ts[1].desired_data_transfer_length) == (1024 * which, 1024)
        assert target.luns[0].disk.read(16 * 512, 4096) == data


async def reinstated(old: RawInitiator, target: Target, new: RawInitiator, **fields: object) -> int:
    """Log in for the connection of ``old``; the status of the login."""
    session = target.sessions[0]
    values: dict[str, object] = {"tsih": session.tsih, "cid": session.cid, **fields}
    new.exp_stat_sn, new.cmd_sn, new.tag = old.exp_stat_sn, old.cmd_sn, old.tag + 1000
    names = {"InitiatorName": "iqn.2024-01.example.host:raw", "TargetName": NAME}
    digests = {"HeaderDigest": "None", "DataDigest": "None"}
    response = await new.login_step(names | digests, stage=1, next_stage=3, **values)
    if response.status_class == 0:
        new.full_feature()
    return response.status_class << 8 | response.status_detail


async def reassign(initiator: RawInitiator, tag: int, exp_data_sn: int = 0) -> int:
    await initiator.send(
        TaskManagementRequest(
            immediate=True,
            function=8,
            initiator_task_tag=initiator.new_tag(),
            referenced_task_tag=tag,
            cmd_sn=initiator.cmd_sn,
            exp_stat_sn=initiator.exp_stat_sn,
            exp_data_sn=exp_data_sn,
        )
    )
    response = await initiator.receive()
    assert isinstance(response, TaskManagementResponse)
    return response.response


@pytest.mark.parametrize("first", [0, 2])
async def test_a_task_goes_on_over_another_connection(first: int) -> None:
    async with served(2) as (target, initiator):
        session = target.sessions[0]
        tag = await initiator.start(read_10(0, 8), read=4096)
        before = initiator.exp_stat_sn
        await receive(initiator, 5)
        initiator.exp_stat_sn = before  # its status is not acknowledged
        portal = session.connection.local_address
        await initiator.stream.aclose()
        await until(lambda: session.detached)
        async with connected(portal) as new:
            assert await reinstated(initiator, target, new) == 0
            assert target.sessions == [session]
            assert new.exp_cmd_sn == initiator.cmd_sn
            assert await reassign(new, 0x9999) == 1
            assert await reassign(new, tag, first) == 0
            *data, response = await receive(new, 5 - first)
            assert b"".join(pdu.data for pdu in data) == DATA[1024 * first : 4096]
            assert isinstance(response, ScsiResponse)
            assert response.status == 0
            assert await reassign(new, tag) == 1, "its status is acknowledged now"


async def test_a_write_in_the_middle_goes_on() -> None:
    async with served(2, immediate_data=False, initial_r2t=True) as (target, initiator):
        initiator.immediate = False
        data = os.urandom(4096)
        tag = await initiator.start(write_10(16, 8), write=data, final=True)
        r2t = await initiator.receive()
        assert isinstance(r2t, ReadyToTransfer)
        await initiator.send(
            DataOut(
                initiator_task_tag=tag,
                lun=r2t.lun,
                target_transfer_tag=r2t.target_transfer_tag,
                exp_stat_sn=initiator.exp_stat_sn,
                data=data[:1024],
            )
        )
        portal = target.sessions[0].connection.local_address
        async with connected(portal) as new:
            # The old connection is still there: the login logs it out.
            assert await reinstated(initiator, target, new) == 0
            assert await reassign(new, tag) == 0
            more = await new.receive()
            assert isinstance(more, ReadyToTransfer)
            assert (more.buffer_offset, more.desired_data_transfer_length) == (1024, 3072)
            assert await reassign(new, tag) == 3, "it is allegiant to this connection"
            await new.answer_r2t(more, data)
            response = await new.receive()
            assert isinstance(response, ScsiResponse)
            assert response.status == 0
            assert target.luns[0].disk.read(16 * 512, 4096) == data


@pytest.mark.parametrize(
    ("level", "fields", "status"),
    [(1, {}, 0x0206), (2, {"cid": 5}, 0x0206), (2, {"tsih": 99}, 0x020A)],
)
async def test_what_cannot_be_reinstated_is_refused(
    level: int, fields: dict[str, object], status: int
) -> None:
    async with served(level) as (target, initiator):
        portal = target.sessions[0].connection.local_address
        async with connected(portal) as new:
            assert await reinstated(initiator, target, new, **fields) == status
        assert (await initiator.execute(read_10(0, 1), read=512)).status == 0


async def test_below_level_2_nothing_is_reassigned() -> None:
    async with served(1) as (_, initiator):
        assert await reassign(initiator, 1) == 4


async def test_the_time_to_retain_ends_the_session() -> None:
    async with served(2, default_time2wait=0) as (target, initiator):
        session = target.sessions[0]
        session.parameters.default_time2wait = 0
        session.parameters.default_time2retain = 1
        await initiator.stream.aclose()
        await until(lambda: not target.sessions)
        assert session.ended
