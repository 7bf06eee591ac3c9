# SPDX-License-Identifier: Apache-2.0
"""The async face: what a caller gets wrong is told to that caller, and to nobody else."""

from __future__ import annotations

import array
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from pyscsi_init import BlockDevice, RamDevice
from pyscsi_init.errors import IscsiError, LocalProtocolError, OutOfRange
from pyscsi_init.testing.conditions import REGISTRATIONS_PREEMPTED
from tests.support.python_target import make_target, opened

pytestmark = pytest.mark.anyio

SIZE = 16 << 20


@pytest.fixture(params=["lun", "ram"])
async def device(request: pytest.FixtureRequest) -> AsyncIterator[BlockDevice]:
    if request.param == "ram":
        async with RamDevice(SIZE, any_alignment=True) as ram:
            yield ram
        return
    async with opened(make_target()) as lun:
        assert lun.size_bytes == SIZE
        yield lun
        assert lun.session.statistics.losses == 0


@pytest.mark.parametrize("offset", [0, 1, 1 << 20])
@pytest.mark.parametrize("data", ["x" * 512, None, 512, [0] * 512, memoryview(bytes(1024))[::2]])
async def test_what_is_no_memory_is_not_written(
    device: BlockDevice, data: Any, offset: int
) -> None:
    with pytest.raises((TypeError, BufferError), match=r"^write: "):
        await device.write(offset, data)
    assert await device.read(offset, 512) == bytes(512)


@pytest.mark.parametrize("offset", [0, 1, 1 << 20])
@pytest.mark.parametrize("buffer", [bytes(512), None, "x", memoryview(bytearray(1024))[::2]])
async def test_what_cannot_be_filled_is_not_read_into(
    device: BlockDevice, buffer: Any, offset: int
) -> None:
    with pytest.raises((TypeError, BufferError), match=r"^read_into: "):
        await device.read_into(offset, buffer)
    await device.write(offset, b"x" * 512)


@pytest.mark.parametrize("offset", [0, 2, 1 << 20])
async def test_items_of_more_than_a_byte(device: BlockDevice, offset: int) -> None:
    words: Any = array.array("I", range(256))
    await device.write(offset, words)
    assert await device.read(offset, 1026) == words.tobytes() + bytes(2)
    back: Any = array.array("I", bytes(1024))
    await device.read_into(offset, back)
    assert back == words


@pytest.mark.parametrize(
    ("offset", "length", "reason"),
    [
        (0, -1, "has a negative length"),
        (-1, 1, "begins before the device"),
        (SIZE - 1, 2, f"ends beyond the device of {SIZE} bytes"),
        (0, 1 << 70, "ends beyond"),
        (1 << 70, 1 << 70, "ends beyond"),
        (0, 1 << 45, "ends beyond"),
    ],
)
async def test_ranges_that_are_not_there(
    device: BlockDevice, offset: int, length: int, reason: str
) -> None:
    for operation in (device.read, device.discard, device.write_zeroes):
        with pytest.raises(OutOfRange, match=reason):
            await operation(offset, length)


@pytest.mark.parametrize("value", [None, "0", 0.0])
async def test_offsets_and_lengths_that_are_no_integers(device: BlockDevice, value: Any) -> None:
    for operation in (device.read, device.discard, device.write_zeroes):
        for arguments in ((value, 512), (0, value)):
            with pytest.raises(TypeError, match="integer"):
                await operation(*arguments)
    with pytest.raises(TypeError, match="integer"):
        await device.write(value, bytes(512))


async def test_the_commands_of_a_unit_look_too() -> None:
    async with opened(make_target()) as lun:
        for data in (512, "x" * 512, None):
            for call in (lun.compare, lun.write_and_verify):
                with pytest.raises(TypeError, match="takes bytes"):
                    await call(0, data)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="takes bytes"):
                await lun.compare_and_write(0, bytes(512), data)  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError, match="equally many"):
            await lun.compare_and_write(0, bytes(512), bytes(1024))
        for name in ("verify", "extents"):
            with pytest.raises(OutOfRange, match=r"of 512 bytes at -512 begins before"):
                await getattr(lun, name)(-512, 512)
        assert lun.session.statistics.losses == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"cdb": "x"},
        {"cdb": None},
        {"cdb": [0] * 6},
        {"cdb": b""},
        {"cdb": bytes(261)},
        {"data_out": "x"},
        {"data_out": [1]},
        {"data_in_length": -1},
        {"data_in_length": 1 << 32},
        {"data_in_length": "x"},
        {"seconds": "x"},
        {"seconds": -1},
        {"seconds": float("nan")},
    ],
    ids=repr,
)
async def test_a_raw_command_that_cannot_be_sent_takes_no_number(wrong: dict[str, Any]) -> None:
    """It was found out when the PDU was built: the target then waited for the missing CmdSN."""
    async with opened(make_target()) as lun:
        arguments: dict[str, Any] = {"cdb": bytes(6)} | wrong
        cdb = arguments.pop("cdb")
        for execute in (lun.execute, lambda *a, **k: lun.session.execute(0, *a, **k)):
            with pytest.raises((TypeError, IscsiError)):
                await execute(cdb, **arguments)
        await lun.execute(bytes(6))
        assert await lun.read(0, 512) == bytes(512)
        assert lun.session.statistics.losses == 0


async def test_the_loop_of_another_thread_is_told() -> None:
    """It waited for ever, also past its own deadline: what ends it came in the LUN's own loop."""
    async with opened(make_target()) as lun:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: lun.read(0, 512),
            lambda: lun.write(0, bytes(512)),
            lun.flush,
            lambda: lun.execute(bytes(6)),
            lambda: lun.session.logical_unit_reset(0),
        ]

        async def elsewhere() -> None:
            for call in calls:
                with pytest.raises(LocalProtocolError, match="event loop of another thread"):
                    await call()

        await anyio.to_thread.run_sync(anyio.run, elsewhere)
        for call in calls:
            await call()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_listener_that_raises_ends_the_block_and_hangs_nobody(cancelled: bool) -> None:
    """The read that met the unit attention was in hand when the listener raised, and its caller
    waited for ever for what nobody completed any more."""

    def listener() -> None:
        raise ZeroDivisionError

    target = make_target()

    async def block() -> None:
        async with opened(target) as lun:
            lun.reservations_lost.append(listener)
            target.luns[0].attention(REGISTRATIONS_PREEMPTED)
            with anyio.move_on_after(0.1 if cancelled else None):
                await lun.read(1 << 20, 512)
            await anyio.sleep_forever()

    with anyio.fail_after(60), pytest.raises(ZeroDivisionError):
        await block()
