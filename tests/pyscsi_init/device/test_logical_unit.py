# SPDX-License-Identifier: Apache-2.0
"""A LUN as a user sees it: the conformance kit, random workloads against a model, credentials."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyscsi_init
from pyscsi_init import Chap, Secret
from pyscsi_init.device.conformance_kit import check_block_device
from pyscsi_init.device.interface import BlockDevice
from pyscsi_init.device.logical_unit import (
    CHAP_VARIABLE,
    MUTUAL_CHAP_VARIABLE,
    require_writable,
    resolve_chap,
)
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.errors import InvalidUrl, LunNotFound, ReadOnlyDevice, SecretError
from pyscsi_init.testing import READS, WRITES, RamDisk, Target, TargetServer
from pyscsi_init.transport import open_session
from pyscsi_init.url import parse_url
from tests.support.python_target import (
    INITIATOR,
    IQN,
    MEBI,
    PATIENCE,
    WAIT,
    make_target,
    opened,
    url_of,
)

SIZE = 1 << 20

KINDS = {
    "ordinary": (make_target, WAIT),
    "thin": (make_target, WAIT),
    "no unsolicited data": (lambda disk: make_target(disk, initial_r2t=True), WAIT),
    "small bursts": (
        lambda disk: make_target(
            disk,
            initial_r2t=True,
            immediate_data=False,
            max_burst_length=4096,
            first_burst_length=4096,
            max_recv_data_segment_length=1024,
            max_data_in_segment=700,
            phase_collapse=False,
        ),
        WAIT,
    ),
    "digests": (make_target, replace(WAIT, header_digest=("CRC32C",), data_digest=("CRC32C",))),
    "small transfers": (make_target, replace(WAIT, max_transfer_bytes=2048)),
    "window of one": (lambda disk: make_target(disk, command_window=1), WAIT),
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_size", [512, 4096])
async def test_the_conformance_kit(kind: str, block_size: int) -> None:
    """Every rule of the block device interface, through PDUs."""
    make, chosen = KINDS[kind]

    @contextlib.asynccontextmanager
    async def made() -> AsyncIterator[BlockDevice]:
        disk = RamDisk(SIZE, block_size=block_size, thin=kind == "thin")
        async with opened(make(disk), chosen) as lun:
            yield lun

    ran = await check_block_device(made)
    assert "check_random_workload" in ran


@pytest.mark.anyio
async def test_the_conformance_kit_read_only() -> None:
    @contextlib.asynccontextmanager
    async def made() -> AsyncIterator[BlockDevice]:
        async with opened(make_target(RamDisk(SIZE)), read_only=True) as lun:
            yield lun

    await check_block_device(made)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "fua", "zeroes", "discard", "flush"]),
        st.integers(0, SIZE - 1),
        st.one_of(st.integers(1, 2000), st.integers(1, 60_000)),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=25,
)


async def perform(device: BlockDevice, what: str, offset: int, length: int, fill: int) -> object:
    """One operation; what it gives back is compared."""
    length = min(length, SIZE - offset)
    data = random.Random(fill).randbytes(length)
    if what == "read":
        return await device.read(offset, length)
    if what in ("write", "fua"):
        await device.write(offset, data, fua=what == "fua")
    elif what == "zeroes":
        await device.write_zeroes(offset, length)
    elif what == "flush":
        await device.flush()
    return None


@settings(max_examples=20)
@given(operations=OPERATIONS, kind=st.sampled_from(sorted(KINDS)), faults=st.booleans())
def test_a_random_workload_equals_ram(
    operations: list[tuple[str, int, int, int]], kind: str, faults: bool
) -> None:
    """The same operations on a LUN and on memory give the same content, also where connections die
    and the unit complains in between."""

    async def main() -> None:
        make, chosen = KINDS[kind]
        target: Target = make(RamDisk(SIZE))
        ram = RamDevice(SIZE, any_alignment=True)
        async with opened(target, chosen) as lun:
            for number, operation in enumerate(operations):
                if faults and number % 3 == 0:
                    fault(target, operation[3])
                with anyio.fail_after(PATIENCE):
                    assert await perform(lun, *operation) == await perform(ram, *operation)
            assert await lun.read(0, SIZE) == await ram.read(0, SIZE)

    anyio.run(main, backend="trio" if operations[0][1] % 2 else "asyncio")


def fault(target: Target, number: int) -> None:
    """Something that must not be seen above."""
    [
        lambda: target.faults.status(0x08, opcodes=WRITES | READS),
        lambda: target.faults.check_condition(6, 0x29, 0, times=3, opcodes=WRITES | READS),
        lambda: target.faults.check_condition(0xB, 0x47, 5, opcodes=WRITES),
        lambda: target.faults.drop(opcodes=WRITES | READS),
        lambda: target.faults.drop(opcodes=WRITES | READS, carry_out=True),
        lambda: target.faults.reject(2, opcodes=WRITES),
        lambda: target.faults.short_data(512, opcodes=READS),
        target.drop_connections,
    ][number % 8]()


@settings(max_examples=10)
@given(seed=st.integers(0, 1 << 30))
def test_concurrent_writers_each_keep_their_own(seed: int) -> None:
    """Many at once, at odd places, in ranges of their own, under losses: each reads what it wrote
    last."""
    rng = random.Random(seed)

    async def main() -> None:
        target = make_target(RamDisk(SIZE))
        workers = 12
        share = SIZE // workers

        async with opened(target, replace(WAIT, queue_depth=8)) as lun:

            async def work(number: int) -> None:
                first = number * share + rng.randrange(3)
                length = share - rng.randrange(8, 600)
                content = b""
                for _ in range(4):
                    content = rng.randbytes(length)
                    await lun.write(first, content, fua=rng.random() < 0.2)
                assert await lun.read(first, length) == content

            async def trouble() -> None:
                for _ in range(3):
                    await anyio.sleep(0.002)
                    target.drop_connections()

            with anyio.fail_after(2 * PATIENCE):
                async with anyio.create_task_group() as group:
                    for number in range(workers):
                        group.start_soon(work, number)
                    group.start_soon(trouble)

    anyio.run(main, backend="trio" if seed % 2 else "asyncio")


# -- what open_lun refuses, and what it takes from where ------------------------------------------

URL = parse_url(f"iscsi://10.0.0.1/{IQN}/0")
USER_URL = parse_url(f"iscsi://alice@10.0.0.1/{IQN}/0")
SECRET = "a-secret-of-16-bytes"


def test_credentials_of_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHAP_VARIABLE, raising=False)
    monkeypatch.delenv(MUTUAL_CHAP_VARIABLE, raising=False)
    assert resolve_chap(URL, None) is None
    with pytest.raises(SecretError, match=CHAP_VARIABLE):
        resolve_chap(USER_URL, None)
    with pytest.raises(SecretError, match="user name"):
        resolve_chap(URL, Secret(SECRET))
    found = resolve_chap(USER_URL, Secret(SECRET))
    assert found is not None
    assert (found.user, found.mutual_secret) == ("alice", None)
    given_chap = Chap(user="bob", secret=Secret(SECRET))
    assert resolve_chap(USER_URL, given_chap) is given_chap
    monkeypatch.setenv(CHAP_VARIABLE, SECRET)
    monkeypatch.setenv(MUTUAL_CHAP_VARIABLE, SECRET[::-1])
    found = resolve_chap(USER_URL, None)
    assert found is not None
    assert found.mutual_secret is not None
    assert resolve_chap(URL, None) is None


@pytest.mark.anyio
async def test_a_url_without_a_lun() -> None:
    with pytest.raises(InvalidUrl, match="names no LUN"):
        async with pyscsi_init.open_lun(f"iscsi://127.0.0.1/{IQN}", initiator_name=INITIATOR):
            pass


@pytest.mark.anyio
async def test_a_lun_that_is_not_there() -> None:
    server = TargetServer([make_target()])
    async with server.running() as portal:
        with pytest.raises(LunNotFound):
            async with pyscsi_init.open_lun(
                url_of(portal.address, 7), settings=WAIT, initiator_name=INITIATOR
            ):
                pass


@pytest.mark.anyio
@pytest.mark.parametrize("protected", [True, False])
async def test_read_only(protected: bool) -> None:
    target = make_target(RamDisk(MEBI, read_only=protected))
    async with opened(target, read_only=not protected) as lun:
        assert lun.read_only
        with pytest.raises(ReadOnlyDevice):
            await lun.write(0, bytes(512))
        with pytest.raises(ReadOnlyDevice):
            require_writable(lun)
        target.drop_connections()
        assert await lun.read(0, 512) == bytes(512)
        assert target.counters.task_management[5] == 0  # others are not disturbed
        assert not any(target.counters.commands[code] for code in WRITES)


@pytest.mark.anyio
async def test_what_it_says_of_itself() -> None:
    disk = RamDisk(2 * MEBI, serial="XYZ-1")
    async with opened(make_target(disk)) as lun:
        assert lun.identity.serial_number == "XYZ-1"
        assert lun.identity.size_bytes == lun.size_bytes == 2 * MEBI
        assert lun.identity.witnesses == ()
        assert lun.facts.inquiry is lun.inquiry
        assert "XYZ" not in repr(lun) or "LUN 0" in repr(lun)
        assert lun.session.target_name == IQN


@pytest.mark.anyio
async def test_two_luns_of_one_session_recover_together() -> None:
    """Each passes its own barrier before anything is replayed on either."""
    target = make_target(RamDisk(MEBI))
    target.add_lun(1, RamDisk(MEBI))
    server = TargetServer([target])
    async with contextlib.AsyncExitStack() as stack:
        portal = await stack.enter_async_context(server.running())
        async with open_session([portal], IQN, settings=WAIT, initiator_name=INITIATOR) as session:
            units = [await pyscsi_init.device.logical_unit.attach_unit(session, n) for n in (0, 1)]
            hold = target.faults.hold_writes()
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as group:
                    for number, unit in enumerate(units):
                        group.start_soon(unit.write, 0, bytes([number + 1]) * 512)
                    await hold.wait(2)
                    target.drop_connections()
                    hold.release()
                for number, unit in enumerate(units):
                    assert await unit.read(0, 512) == bytes([number + 1]) * 512
            assert target.counters.task_management[5] == 2
            for unit in units:
                await unit.aclose()
            assert session.restorers == []
