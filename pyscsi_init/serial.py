# SPDX-License-Identifier: Apache-2.0
"""RFC 1982 serial numbers with SERIAL_BITS = 32: CmdSN, StatSN, DataSN and R2TSN.

RFC 7143 4.2.2.1 compares its sequence numbers this way, so that they may wrap. Plain ``<`` on
them is a bug that shows after four thousand million commands; hence these functions.

Two numbers exactly half the circle apart are in no order: every comparison but equality is False
(RFC 1982 3.2 leaves it undefined; no window of iSCSI is that wide).
"""

from __future__ import annotations

SERIAL_BITS = 32
_MASK = (1 << SERIAL_BITS) - 1
_HALF = 1 << (SERIAL_BITS - 1)


def serial_lt(a: int, b: int) -> bool:
    """Whether ``a`` comes before ``b``."""
    return 0 < (b - a) & _MASK < _HALF


def serial_le(a: int, b: int) -> bool:
    """Whether ``a`` is ``b`` or comes before it."""
    return (b - a) & _MASK < _HALF


def serial_gt(a: int, b: int) -> bool:
    """Whether ``a`` comes after ``b``."""
    return 0 < (a - b) & _MASK < _HALF


def serial_ge(a: int, b: int) -> bool:
    """Whether ``a`` is ``b`` or comes after it."""
    return (a - b) & _MASK < _HALF


def serial_add(a: int, n: int) -> int:
    """The number ``n`` steps after ``a`` (before it, for a negative ``n``)."""
    return (a + n) & _MASK


def serial_sub(a: int, b: int) -> int:
    """The steps from ``b`` to ``a``: negative where ``a`` comes before ``b``.

    -(2**31) for two numbers half the circle apart.
    """
    return ((a - b + _HALF) & _MASK) - _HALF
