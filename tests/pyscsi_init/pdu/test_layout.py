# SPDX-License-Identifier: Apache-2.0
"""The seam to construct: widths are checked when a class is made, errors are ours."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.pdu.layout import IMMEDIATE, Layout, flag, octets, ones, reserved, uint


def test_a_layout_has_48_bytes() -> None:
    with pytest.raises(AssertionError, match="47 bytes"):
        Layout(1, reserved(46 * 8))


def test_fields_in_order() -> None:
    layout = Layout(
        0x2A, ones(1), flag("a"), uint("b", 6), octets("c", 2), reserved(44 * 8), i_bit=IMMEDIATE
    )
    built = layout.build({"immediate": True, "a": False, "b": 0x15, "c": b"xy"})
    assert built == b"\x6a\x95xy" + bytes(44)
    assert layout.names == ("immediate", "a", "b", "c")


def test_errors_are_ours() -> None:
    layout = Layout(0, uint("a", 8), reserved(46 * 8))
    for values in ({"a": 256}, {"a": -1}, {"a": "x"}, {"a": None}, {}):
        with pytest.raises(LocalProtocolError):
            layout.build(values)
    with pytest.raises(ProtocolError):
        layout.parse(b"\x01" + bytes(47))
