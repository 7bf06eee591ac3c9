# SPDX-License-Identifier: Apache-2.0
"""Registrations that a target keeps through a loss of power, asked for where it can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Fencing, UnitRecord
from pyscsi_init.device import node_key
from pyscsi_init.errors import Fenced, HeldByAnother
from pyscsi_init.testing import RamDisk, Target, TargetServer
from tests.pyscsi_init.device.two_nodes import A_ISID, A_NAME, B_NAME, BLOCK, FAR, OUT
from tests.support.logs import ExpectLogs
from tests.support.python_target import MEBI, PATIENCE, WAIT, make_target, url_of

pytestmark = pytest.mark.anyio

A_KEY, B_KEY = node_key(A_NAME), node_key(B_NAME)
AUTO, TAKE_OVER = Fencing(), Fencing(take_over=True)
REGISTERING = (0, 6)


class Scene:
    """A target that can keep registrations, and any node that wants its LUN."""

    def __init__(self, target: Target, url: str) -> None:
        self.target, self.url = target, url
        self.table = target.luns[0].reservations
        self.table.can_persist = True

    def open(self, name: str, fencing: Fencing | None = AUTO, **kw: Any) -> Any:
        return pyscsi_init.open_lun(
            self.url, initiator_name=name, settings=WAIT, fencing=fencing, **kw
        )

    def lose_power(self) -> None:
        self.table.power_loss()
        self.target.drop_connections()

    @property
    def keys(self) -> set[int]:
        return set(self.table.keys.values())


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    target = make_target(RamDisk(4 * MEBI))
    with anyio.fail_after(6 * PATIENCE):
        async with TargetServer([target]).running() as portal:
            yield Scene(target, url_of(portal.address))


async def test_the_key_survives_and_the_node_goes_on() -> None:
    async with scene() as made:
        async with made.open(A_NAME) as a:
            assert made.table.persists
            await a.write(FAR, b"1" * BLOCK)
            made.lose_power()
            assert made.keys == {A_KEY}
            assert (made.table.generation, made.table.type) == (0, 5)
            await a.write(FAR, b"2" * BLOCK)
            with pytest.raises(HeldByAnother):
                async with made.open(B_NAME):
                    pass
            # Its look has not told the target to keep nothing any more.
            assert made.table.persists
            assert a.fence.record.persists
        assert made.table.keys == {}


async def test_who_took_over_still_has_it_after_a_loss_of_power(expect_logs: ExpectLogs) -> None:
    """Without it the node that comes back first would find no key and a count of 0."""
    expect_logs("was taken over", logger="pyscsi_init.session")
    async with scene() as made, made.open(A_NAME) as a:
        await a.write(FAR, b"a" * BLOCK)
        async with made.open(B_NAME, TAKE_OVER) as b:
            await b.write(FAR, b"b" * BLOCK)
            b.keep_fence()
            made.lose_power()
        assert made.keys == {B_KEY}
        with pytest.raises(Fenced, match="taken over"):
            await a.write(FAR, b"a" * BLOCK)
        assert made.table.persists


async def test_a_target_that_says_no_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pyscsi_init.device")
    async with scene() as made:
        made.target.faults.check_condition(
            5, 0x26, 0, opcodes={OUT}, when=lambda f: f.cdb[1] & 0x1F in REGISTERING
        )
        async with made.open(A_NAME) as a:
            await a.write(FAR, b"1" * BLOCK)
            assert made.keys == {A_KEY}
            assert not made.table.persists
            assert not a.fence.persists
            made.lose_power()
            assert made.keys == set()
            await a.write(FAR, b"2" * BLOCK)
            assert made.keys == {A_KEY}
    told = [record.message for record in caplog.records if "refuses to" in record.message]
    assert len(told) == 1


@pytest.mark.parametrize("asc", [0x26, 0x24])
async def test_a_controller_that_takes_over_and_cannot(
    caplog: pytest.LogCaptureFixture, asc: int
) -> None:
    """The reservation is as good as before, and so is the volume."""
    caplog.set_level("INFO", logger="pyscsi_init.device")
    async with scene() as made, made.open(A_NAME) as a:
        await a.write(FAR, b"1" * BLOCK)
        made.table.can_persist = False  # 26h: and then the Python target refuses to be asked
        if asc == 0x24:
            made.target.faults.check_condition(
                5, asc, 0, opcodes={OUT}, when=lambda f: f.cdb[1] & 0x1F == 0
            )
        for data in (b"2", b"3"):
            made.target.drop_connections()
            await a.write(FAR, data * BLOCK)
        assert made.keys == {A_KEY}
        assert a.fence.held
        assert not a.fence.record.persists
    told = [record.message for record in caplog.records if "refuses to" in record.message]
    assert len(told) == 1


async def test_a_successor_of_one_that_asked_finds_a_target_that_cannot() -> None:
    async with scene() as made:
        async with made.open(A_NAME, isid=A_ISID) as a:
            record = a.record()
            a.keep_fence()
        made.table.can_persist = False
        async with made.open(A_NAME, isid=A_ISID, predecessor=record) as a:
            await a.write(FAR, b"1" * BLOCK)
            assert not a.fence.persists


async def test_a_unit_that_only_knows_register_and_refuses_to_persist() -> None:
    async with scene() as made:
        made.target.faults.check_condition(
            5, 0x24, 0, opcodes={OUT}, when=lambda f: f.cdb[1] & 0x1F == 6
        )
        made.target.faults.check_condition(
            5, 0x26, 0, opcodes={OUT}, when=lambda f: f.cdb[1] & 0x1F == 0
        )
        async with made.open(A_NAME, Fencing(required=True)) as a:
            await a.write(FAR, b"1" * BLOCK)
            assert a.fence.held
            assert not a.fence.persists


async def test_another_refusal_is_one(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as made:
        made.target.faults.check_condition(
            5, 0x55, 4, opcodes={OUT}, when=lambda f: f.cdb[1] & 0x1F in REGISTERING, times=4
        )
        async with made.open(A_NAME) as a:
            assert a.fence is None  # no resources for registrations: not fenced
    assert not [record for record in caplog.records if "refuses to" in record.message]


async def test_a_target_that_cannot_is_not_asked() -> None:
    async with scene() as made:
        made.table.can_persist = False  # and then the Python target refuses to be asked
        async with made.open(A_NAME) as a:
            assert not a.fence.persists
            assert made.keys == {A_KEY}


async def test_a_successor_goes_on_asking() -> None:
    """Its first REGISTER with the bit off would end it for all."""
    async with scene() as made:
        async with made.open(A_NAME, isid=A_ISID) as a:
            record = UnitRecord.from_json(a.record().to_json())
            a.keep_fence()
        assert record.fence is not None
        assert record.fence.persists
        async with made.open(A_NAME, isid=A_ISID, predecessor=record) as a:
            await a.write(FAR, b"1" * BLOCK)
            assert made.table.persists
            made.lose_power()
            await a.write(FAR, b"2" * BLOCK)
        old = record.to_json()
        del old["fence"]["persists"]  # as an earlier version wrote it
        found = UnitRecord.from_json(old).fence
        assert found is not None
        assert not found.persists
