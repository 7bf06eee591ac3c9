# SPDX-License-Identifier: Apache-2.0
"""When silence becomes a question, and when an answer (RFC 7143 7.14)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.connection import Due, Keepalive


def test_silence_asks_and_then_kills() -> None:
    alive = Keepalive(5, 3, 100)
    assert alive.deadline() == 105
    assert alive.due(104.9) is Due.NOTHING
    assert alive.due(105) is Due.PING
    alive.ping_sent(105)
    assert alive.deadline() == 108
    assert alive.due(107.9) is Due.NOTHING
    assert alive.due(108) is Due.DEAD


def test_any_byte_resets() -> None:
    alive = Keepalive(5, 3, 100)
    alive.ping_sent(105)
    alive.received(106)
    assert alive.deadline() == 111
    assert alive.due(110) is Due.NOTHING


def test_zero_never_asks() -> None:
    alive = Keepalive(0, 3, 100)
    assert alive.deadline() is None
    assert alive.due(1e9) is Due.NOTHING


@given(st.lists(st.floats(0, 20), max_size=30))
def test_what_is_due_is_due_exactly_at_the_deadline(gaps: list[float]) -> None:
    now = 0.0
    alive = Keepalive(5, 5, now)
    for gap in gaps:
        now += gap
        deadline = alive.deadline()
        assert deadline is not None
        due = alive.due(now)
        assert (due is Due.NOTHING) == (now < deadline)
        if due is Due.PING:
            alive.ping_sent(now)
            after = alive.deadline()
            assert after is not None
            assert after > now
        elif due is Due.DEAD:
            return
        elif gap > 4:
            alive.received(now)
