# SPDX-License-Identifier: Apache-2.0
"""RFC 1982 with SERIAL_BITS = 32, as RFC 7143 4.2.2.1 wants it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.serial import serial_add, serial_ge, serial_gt, serial_le, serial_lt, serial_sub

HALF = 1 << 31
LAST = (1 << 32) - 1

numbers = st.integers(0, LAST) | st.sampled_from([0, 1, HALF - 1, HALF, HALF + 1, LAST])


@pytest.mark.parametrize(
    ("a", "b"),
    [(0, 1), (1, 2), (0, HALF - 1), (LAST, 0), (0xFFFFFFFC, 3), (HALF, LAST), (HALF + 1, 0)],
)
def test_order(a: int, b: int) -> None:
    assert serial_lt(a, b)
    assert serial_le(a, b)
    assert serial_gt(b, a)
    assert serial_ge(b, a)
    assert not serial_lt(b, a)
    assert not serial_le(b, a)
    assert not serial_gt(a, b)
    assert not serial_ge(a, b)


@given(numbers)
def test_a_number_equals_itself(a: int) -> None:
    assert serial_le(a, a)
    assert serial_ge(a, a)
    assert not serial_lt(a, a)
    assert not serial_gt(a, a)
    assert serial_sub(a, a) == 0


@given(numbers)
def test_half_the_circle_apart_is_no_order(a: int) -> None:
    b = serial_add(a, HALF)
    assert not any(compare(a, b) for compare in (serial_lt, serial_le, serial_gt, serial_ge))


@given(numbers, numbers)
def test_definition_of_the_rfc(a: int, b: int) -> None:
    """RFC 1982 3.2, word by word."""
    less = a != b and ((a < b and b - a < HALF) or (a > b and a - b > HALF))
    assert serial_lt(a, b) == less
    assert serial_gt(b, a) == less
    assert serial_le(a, b) == (less or a == b)
    assert serial_ge(b, a) == (less or a == b)


@given(numbers, st.integers(0, HALF - 1))
def test_adding_goes_forward(a: int, n: int) -> None:
    """RFC 1982 3.1."""
    b = serial_add(a, n)
    assert 0 <= b <= LAST
    assert serial_le(a, b)
    assert serial_sub(b, a) == n
    assert serial_sub(a, b) == -n
    assert serial_add(b, -n) == a


def test_wrap() -> None:
    assert serial_add(LAST, 1) == 0
    assert serial_add(0, -1) == LAST
    assert serial_sub(2, 0xFFFFFFFE) == 4
    assert serial_sub(0xFFFFFFFE, 2) == -4
    assert serial_sub(0, HALF) == -HALF
