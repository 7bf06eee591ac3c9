# SPDX-License-Identifier: Apache-2.0
"""How long to look again before sleeping is learned from how long sleeps were."""

from __future__ import annotations

import pytest

from pyscsi_init.transport.polling import FEW, SHORTEST_S, BusyPolling

LONGEST = 100e-6


@pytest.fixture
def polling() -> BusyPolling:
    polling = BusyPolling()
    polling.longest = LONGEST
    return polling


def sleep(polling: BusyPolling, seconds: float) -> float:
    """One sleep of so long ends with something; what was learned."""
    polling.slept_at = 1000.0
    polling.learn(1000.0 + seconds)
    assert polling.slept_at == 0
    return polling.window


def test_it_grows_while_sleeps_are_short(polling: BusyPolling) -> None:
    grown = [sleep(polling, 50e-6) for _ in range(6)]
    assert grown == [SHORTEST_S, 2 * SHORTEST_S, 4 * SHORTEST_S, LONGEST, LONGEST, LONGEST]


def test_it_shrinks_to_nothing_while_they_are_long(polling: BusyPolling) -> None:
    for _ in range(6):
        sleep(polling, 50e-6)
    shrunk = [sleep(polling, 5e-3) for _ in range(6)]
    assert shrunk == sorted(shrunk, reverse=True)
    assert shrunk[0] == LONGEST / 2
    assert shrunk[-1] == 0
    assert sleep(polling, 5e-3) == 0
    assert sleep(polling, 1.01 * LONGEST) == 0


def test_it_is_off_without_a_limit() -> None:
    polling = BusyPolling()
    assert [sleep(polling, seconds) for seconds in (0.0, 1e-9, 1e-6, 1.0)] == [0] * 4


def test_many_in_flight_are_not_worth_it(polling: BusyPolling) -> None:
    one: dict[int, int] = {}
    two: dict[int, int] = {}
    polling.watch(one, LONGEST)
    polling.watch(two, LONGEST)
    assert polling.is_worth_it()
    one.update({each: each for each in range(FEW)})
    assert polling.is_worth_it()
    two[0] = 0
    assert not polling.is_worth_it()
    two.clear()
    assert polling.is_worth_it()


def test_what_has_ended_counts_no_more(polling: BusyPolling) -> None:
    """Told apart by identity: one with commands left in it, and an empty one equal to another."""
    first: dict[int, int] = {}
    second: dict[int, int] = {}
    polling.watch(first, LONGEST)
    polling.watch(second, LONGEST)
    polling.forget(second)
    first.update({each: each for each in range(FEW + 1)})
    assert not polling.is_worth_it()
    polling.forget(first)
    polling.forget(first)
    assert polling.is_worth_it()
    assert polling.in_flight == []
