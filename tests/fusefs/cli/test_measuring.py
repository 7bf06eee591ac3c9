# SPDX-License-Identifier: Apache-2.0
"""The measuring itself, on devices of memory: what is counted, where it goes, how it ends."""

from __future__ import annotations

import math

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.cli.measuring import PATTERNS, PERCENTILES, Counted, Histogram, Load, measure
from pyscsi_init.device.fault import FaultDevice, Match
from pyscsi_init.device.interface import Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.errors import ConfigurationError, MediumError
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

MEBI = 1 << 20
BAD_SECTOR = MediumError("bad sector", sense_key=3, asc=0x11, ascq=0)


def load(pattern: str, **changes: int | float) -> Load:
    values = {"block_size": 4096, "depth": 4, "seconds": 0.05, **changes}
    return Load(pattern=pattern, **values)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_sorted_list(latencies: list[float]) -> None:
    histogram = Histogram()
    for latency in latencies:
        histogram.add(latency)
    found = histogram.percentiles()
    ordered = sorted(int(latency * 1e6) for latency in latencies)
    for percent in PERCENTILES:
        exact = ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]
        # Up to 65 ms by the microsecond, above that to one part in 64.
        assert exact - exact / 64 <= found[f"p{percent:g}"] <= exact
        if exact < 1 << 16:
            assert found[f"p{percent:g}"] == exact
    assert found["max"] == ordered[-1]


def test_an_empty_histogram_knows_nothing() -> None:
    assert all(math.isnan(value) for value in Histogram().percentiles().values())


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_what_is_counted_is_what_was_done(pattern: str) -> None:
    device = FaultDevice(RamDevice(MEBI))
    counted = Counted()
    found = await measure(device, load(pattern, offset=65536, size=262144), counted)
    log = device.log
    reads = sum(operation is Operation.READ for operation, _, _ in log)
    assert (found.ios, found.reads, found.writes) == (len(log), reads, len(log) - reads)
    assert counted.ios == found.ios > 100
    assert found.bytes == found.ios * 4096
    assert found.iops == pytest.approx(found.ios / found.seconds)
    assert 0 <= found.cpu_us_per_io < 1e6
    assert 0 <= found.latency_us["p50"] <= found.latency_us["p99.9"] <= found.latency_us["max"]
    kinds = {operation for operation, _, _ in log}
    assert (
        kinds
        == {
            "read": {Operation.READ},
            "randread": {Operation.READ},
            "write": {Operation.WRITE},
            "randwrite": {Operation.WRITE},
            "randrw": {Operation.READ, Operation.WRITE},
        }[pattern]
    )
    places = [offset for _, offset, length in log if length == 4096]
    assert len(places) == len(log)
    assert {place % 4096 for place in places} == {0}
    assert min(places) >= 65536
    assert max(places) + 4096 <= 65536 + 262144
    in_order = [65536 + number % 64 * 4096 for number in range(len(places))]
    assert (places == in_order) is (pattern in ("read", "write"))
    if pattern == "randrw":
        assert 0.4 < found.reads / found.ios < 0.6


async def test_as_many_are_in_flight_as_was_asked_for() -> None:
    device = FaultDevice(RamDevice(MEBI))
    device.hold()
    async with anyio.create_task_group() as group:
        group.start_soon(measure, device, load("randread", depth=7, seconds=0.01))
        await until(lambda: len(device.held) == 7)
        await anyio.sleep(0.02)
        assert device.release() == 7
    assert device.statistics.max_in_flight == 7


async def test_the_first_error_ends_it() -> None:
    device = FaultDevice(RamDevice(MEBI))
    device.fail(BAD_SECTOR, Match(start=4096 * 9, end=4096 * 10))
    with pytest.raises(MediumError, match="bad sector"):
        await measure(device, load("read", depth=1, seconds=60))
    assert len(device.log) == 9
    assert device.statistics.in_flight == 0


async def test_cancellation_leaves_nothing_in_flight() -> None:
    device = FaultDevice(RamDevice(MEBI))
    device.hold()
    with anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(measure, device, load("randwrite", seconds=60))
            await until(lambda: len(device.held) == 4)
            group.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert device.statistics.in_flight == 0
    assert device.log == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"block_size": 4095}, "--bs 4095"),
        ({"block_size": 2 * MEBI}, "--bs 2097152"),
        ({"offset": 100}, "--offset 100"),
        ({"offset": MEBI}, "--offset 1048576"),
        ({"size": 1000}, "--size 1000"),
        ({"offset": 4096, "size": MEBI}, "--size 1048576"),
        ({"offset": MEBI - 512}, "--bs 4096"),
    ],
)
async def test_a_load_that_does_not_fit(changes: dict[str, int], what: str) -> None:
    device = FaultDevice(RamDevice(MEBI))
    with pytest.raises(ConfigurationError) as caught:
        await measure(device, load("randread", **changes))
    assert str(caught.value).startswith(what)
    assert caught.value.remedy
    assert device.log == []
