# SPDX-License-Identifier: Apache-2.0
"""When the next worker starts: at once after a service, later and later after none."""

from __future__ import annotations

from fusefs.process.restarts import AT_ONCE, DELAYS_S, SERVICE_S, Restarts


def test_who_served_is_followed_at_once_for_ever() -> None:
    restarts, now = Restarts(), 100.0
    for _ in range(1000):
        ready, now = now, now + SERVICE_S
        assert restarts.died(now, ready) == 0
    assert restarts.count == 1000


def test_who_dies_at_once_is_held_back_longer_and_longer() -> None:
    restarts, now = Restarts(), 100.0
    delays = [restarts.died(now, now - 0.001) for _ in range(AT_ONCE + len(DELAYS_S) + 2)]
    assert delays == [0.0] * AT_ONCE + [*DELAYS_S, DELAYS_S[-1], DELAYS_S[-1]]


def test_who_never_served_earns_nothing_by_waiting() -> None:
    restarts = Restarts()
    for _ in range(AT_ONCE):
        assert restarts.died(0, None) == 0
    assert [restarts.died(now, None) for now in (1e3, 1e6, 1e9)] == list(DELAYS_S[:3])


def test_a_service_ends_the_delays() -> None:
    restarts = Restarts()
    while restarts.died(0, None) < DELAYS_S[3]:
        pass
    assert restarts.died(50 + SERVICE_S, 50) == 0
    assert restarts.died(60, None) == DELAYS_S[0]


def test_a_zygote_that_came_up_is_followed_soon_and_one_that_never_does_is_not() -> None:
    """All volumes whose workers die wait for it, and it serves nothing that it could die of."""
    restarts, now = Restarts(longest_after_service_s=0.5), 100.0
    delays = [restarts.died(now, now - 0.001) for _ in range(20)]
    assert max(delays) == 0.5
    assert restarts.died(now, None) == DELAYS_S[-1]
