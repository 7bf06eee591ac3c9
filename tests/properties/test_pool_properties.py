# SPDX-License-Identifier: Apache-2.0
"""A pool under concurrent creates and deletes that are cut off at any step.

A crash is an exception at a chosen write, removal, login or request to a unit; from there on
nothing works for anybody, and a new instance begins on the same directory.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fusefs.errors import OperationInProgress
from fusefs.volume import claims, pool_units
from fusefs.volume.pool import PoolProvisioner
from fusefs.volume.pool_units import OpenUnit
from fusefs.volume.provision import NoSpaceLeft, NoSuchClaim, ProvisionedLun, SizeRange
from pyscsi_init.device import BlockRequest, RamDevice
from pyscsi_init.errors import IdentityMismatch
from pyscsi_init.secret import Chap
from pyscsi_init.url import IscsiUrl

KIBI = 1024
SIZES = (128 * KIBI, 256 * KIBI, 256 * KIBI, 512 * KIBI)
FOREIGN = len(SIZES)
"""This unit holds somebody's data from the beginning."""
NAMES = ("a", "b", "c", "d", "e")
TARGET, OTHER_NAME = "iqn.2026-11.example:pool", "iqn.2026-11.example:same"
PARAMETERS = {
    # Each unit is listed twice, under two portals, and the second one under two targets as well.
    "pool": " ".join(
        f"iscsi://192.0.2.{portal}/{TARGET}/{lun}"
        for portal in (1, 2)
        for lun in range(len(SIZES) + 1)
    )
    + f" iscsi://192.0.2.1/{OTHER_NAME}/1",
}


class Crash(Exception):
    """The process ends here."""


class Node:
    """What survives a crash: units and files; and when the next one comes."""

    def __init__(self) -> None:
        self.units = [RamDevice(size) for size in (*SIZES, 256 * KIBI)]
        self.left: int | None = None

    def point(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            raise Crash
        self.left -= 1

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.point()
            result = function(*arguments)
            self.point()
            return result

        return call

    @contextlib.asynccontextmanager
    async def open(self, url: IscsiUrl, _credentials: Chap | None) -> AsyncIterator[OpenUnit]:
        self.point()
        assert url.lun is not None

        async def reset() -> None:
            self.point()

        yield OpenUnit(Mortal(self, self.units[url.lun]), f"unit-{url.lun}", reset)


class Mortal(RamDevice):
    """The memory of another device; a crash is the end of a request, before or after its effect."""

    def __init__(self, node: Node, unit: RamDevice) -> None:
        super().__init__(unit.size_bytes)
        self._node, self._unit = node, unit

    def submit(self, request: BlockRequest) -> None:
        def done(inner: BlockRequest) -> None:
            try:
                self._node.point()
            except Crash as crash:
                request.complete(crash)
            else:
                request.complete(inner.error)

        try:
            self._node.point()
        except Crash as crash:
            request.complete(crash)
            return
        self._unit.submit(
            BlockRequest(request.operation, request.offset, request.length, request.buffer, done)
        )


class PoolMachine(RuleBasedStateMachine):
    """What it may never do is asserted where it is told of a unit, and after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="pool-"))
        self.node = Node()
        self.had: dict[str, ProvisionedLun] = {}
        """Told to somebody, and nobody began to take it back."""
        self.patches = contextlib.ExitStack()
        for name in ("write_json", "remove_file"):
            around = self.node.around(getattr(claims, name))
            self.patches.enter_context(mock.patch.object(claims, name, around))
        self.patches.enter_context(mock.patch.object(pool_units, "WIPE_BYTES", 64 * KIBI))
        anyio.run(self.node.units[FOREIGN].write, 0, b"somebody's".ljust(512))

    def teardown(self) -> None:
        self.patches.close()
        shutil.rmtree(self.directory)

    def pool(self) -> PoolProvisioner:
        return PoolProvisioner(self.directory, opener=self.node.open)

    # -- what happens -----------------------------------------------------------------------------

    @rule(
        steps=st.lists(
            st.tuples(st.sampled_from(["create", "delete"]), st.sampled_from(NAMES)),
            min_size=1,
            max_size=4,
        ),
        required=st.sampled_from([0, 128 * KIBI, 200 * KIBI]),
        crash_after=st.one_of(st.none(), st.integers(0, 40)),
        two_processes=st.booleans(),
        writes=st.booleans(),
    )
    def at_once(
        self,
        steps: list[tuple[str, str]],
        required: int,
        crash_after: int | None,
        two_processes: bool,
        writes: bool,
    ) -> None:
        self.node.left = crash_after
        first = self.pool()
        pools = [first, self.pool() if two_processes else first]
        deleted = {name for step, name in steps if step == "delete"}
        going = {name: lun.claim_id for name, lun in self.had.items() if name in deleted}
        for name in going:
            del self.had[name]

        async def one(number: int, step: str, name: str) -> None:
            pool = pools[number % 2]
            try:
                if step == "create":
                    lun = await pool.create(name, SizeRange(required=required), PARAMETERS, {})
                    # Whoever deletes in the same moment has no claim on what he is told.
                    if name not in deleted:
                        await self.told(lun, writes=writes)
                elif name in going:
                    await pool.delete(going[name])
            except* (Crash, OperationInProgress, NoSpaceLeft, claims.ClaimConflict):
                pass

        async def all_of_them() -> None:
            async with anyio.create_task_group() as group:
                for number, (step, name) in enumerate(steps):
                    group.start_soon(one, number, step, name)

        try:
            anyio.run(all_of_them)
        finally:
            self.node.left = None

    @rule()
    def take_all_back(self) -> None:
        """Also what nobody was told of, and what was cut off while it was taken back."""

        async def main() -> None:
            pool = self.pool()
            for claim in claims.Claims(self.directory).all():
                await pool.delete(claim.claim_id)
            assert not await pool.list()
            assert (await pool.capacity(PARAMETERS)).available == sum(SIZES) + 256 * KIBI
            for unit in self.node.units[:FOREIGN]:
                assert not any(await unit.read(0, unit.size_bytes)), "old data is on a free unit"

        anyio.run(main)
        self.had.clear()

    async def told(self, lun: ProvisionedLun, *, writes: bool) -> None:
        """Somebody hears of a unit: he looks at it, and writes all over it, or keeps it blank."""
        known = self.had.setdefault(lun.name, lun)
        assert known == lun, "the claim of a name changed"
        assert lun.url.lun != FOREIGN, "data of somebody else was handed out"
        number = 1 if lun.url.target == OTHER_NAME else lun.url.lun
        assert number is not None
        unit = self.node.units[number]
        data = await unit.read(0, unit.size_bytes)
        mine = lun.claim_id.encode().ljust(512)
        if any(data):
            assert data == mine * (unit.size_bytes // 512), "old data was handed out"
        if writes:
            await unit.write(0, mine * (unit.size_bytes // 512))

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def no_unit_is_had_twice(self) -> None:
        found = claims.Claims(self.directory).all()
        assert len({claim.key for claim in found}) == len(found)
        assert len({claim.name for claim in found}) == len(found)
        by_name = {claim.name: claim for claim in found}
        for name, lun in self.had.items():
            assert by_name[name].lun() == lun, "a claim was lost or changed"
            assert by_name[name].phase == claims.READY


PoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=8, deadline=None)
TestPool = PoolMachine.TestCase


# -- what chance finds too rarely -----------------------------------------------------------------

TWO_NAMES = {"pool": f"iscsi://192.0.2.1/{TARGET}/1 iscsi://192.0.2.1/{OTHER_NAME}/1"}


def test_a_unit_behind_two_targets_is_one(tmp_path: Path) -> None:
    async def main() -> None:
        pool = PoolProvisioner(tmp_path, opener=Node().open)
        lun = await pool.create("a", SizeRange(), TWO_NAMES, {})
        with pytest.raises(NoSpaceLeft):
            await pool.create("b", SizeRange(), TWO_NAMES, {})
        assert await pool.list() == [lun]

    anyio.run(main)


def test_a_deletion_that_was_cut_off_ends_the_volume(tmp_path: Path) -> None:
    async def main() -> None:
        node = Node()
        pool = PoolProvisioner(tmp_path, opener=node.open)
        lun = await pool.create("a", SizeRange(), TWO_NAMES, {})
        await node.units[1].write(0, b"old".ljust(512))
        node.left = 0
        with pytest.raises(Crash):
            await pool.delete(lun.claim_id)
        node.left = None
        with pytest.raises(NoSuchClaim):
            await pool.get(lun.claim_id)
        with pytest.raises(NoSpaceLeft):
            await pool.create("b", SizeRange(), TWO_NAMES, {})
        again = await pool.create("a", SizeRange(), TWO_NAMES, {})
        assert again.claim_id != lun.claim_id
        assert not any(await node.units[1].read(0, 512))

    anyio.run(main)


def test_another_unit_at_the_address_is_not_wiped(tmp_path: Path) -> None:
    async def main() -> None:
        node = Node()
        lun = await PoolProvisioner(tmp_path, opener=node.open).create(
            "a", SizeRange(), TWO_NAMES, {}
        )
        await node.units[1].write(0, b"somebody's".ljust(512))

        @contextlib.asynccontextmanager
        async def other(url: IscsiUrl, credentials: Chap | None) -> AsyncIterator[OpenUnit]:
            async with node.open(url, credentials) as unit:
                yield OpenUnit(unit.device, "another", unit.reset)

        with pytest.raises(IdentityMismatch):
            await PoolProvisioner(tmp_path, opener=other).delete(lun.claim_id)
        assert any(await node.units[1].read(0, 512))

    anyio.run(main)


def test_a_claim_that_cannot_be_read_stops_the_pool(tmp_path: Path) -> None:
    async def main() -> None:
        pool = PoolProvisioner(tmp_path, opener=Node().open)
        await pool.create("a", SizeRange(), TWO_NAMES, {})
        (file,) = (tmp_path / "claims").glob("*.json")
        file.write_text("{")
        with pytest.raises(claims.ClaimUnreadable):
            await pool.create("b", SizeRange(), PARAMETERS, {})

    anyio.run(main)
