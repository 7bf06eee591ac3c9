# SPDX-License-Identifier: Apache-2.0
"""TransportIDs: golden bytes, names of both formats, any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.scsi import TransportId
from pyscsi_init.scsi.transport_id import parse_transport_ids

NAME = "iqn.2026-11.example:h1"
ISID = bytes.fromhex("800000000a01")

GOLDEN = {
    # 22 characters and a NUL, padded to 24.
    "name": ("05 00 0018" + NAME.encode().hex() + "0000", TransportId(initiator_name=NAME)),
    "name and ISID": (
        "45 00 0028" + (NAME + ",i,0x800000000a01").encode().hex() + "00",
        TransportId(initiator_name=NAME, isid=ISID),
    ),
    "a short name fills 24 bytes": (
        "05 00 0014" + b"iqn.a".hex() + "00" * 15,
        TransportId(initiator_name="iqn.a"),
    ),
    "SAS": (
        "06 000000 5000c50012345678" + "00" * 12,
        TransportId(
            protocol_identifier=6, other=bytes.fromhex("06000000 5000c50012345678" + "00" * 12)
        ),
    ),
}


@pytest.mark.parametrize("which", GOLDEN)
def test_golden(which: str) -> None:
    data, port = bytes.fromhex(GOLDEN[which][0]), GOLDEN[which][1]
    assert port.build() == data
    assert TransportId.parse(data) == port
    assert TransportId.parse(data + b"more") == port
    assert TransportId.length_of(data) == len(data)


def test_text() -> None:
    assert TransportId(initiator_name=NAME, isid=ISID).text == f"{NAME},i,0x800000000a01"
    assert TransportId(initiator_name=NAME).text == NAME
    assert TransportId(protocol_identifier=6, other=b"\6\1").text == "protocol 6h 0601"


def test_leading_zeros_of_an_isid_may_be_missing() -> None:
    text = b"iqn.2026-11.example:h1,i,0x23d000002\0"
    data = bytes.fromhex("45 00") + (len(text) + 3).to_bytes(2, "big") + text + bytes(3)
    assert TransportId.parse(data).isid == bytes.fromhex("00023d000002")


def test_a_list() -> None:
    ports = (TransportId(initiator_name=NAME), TransportId(initiator_name=NAME, isid=ISID))
    data = b"".join(port.build() for port in ports)
    assert parse_transport_ids(data) == ports
    with pytest.raises(ProtocolError):
        parse_transport_ids(data[:-1])


@pytest.mark.parametrize("port", [TransportId(), TransportId(initiator_name=NAME, isid=b"\0")])
def test_what_has_no_name_is_refused(port: TransportId) -> None:
    with pytest.raises(LocalProtocolError):
        port.build()


@given(st.binary(max_size=64) | st.binary(max_size=60).map(lambda data: b"\x45\0\0\x14" + data))
def test_any_bytes_are_parsed_or_a_protocol_error(data: bytes) -> None:
    try:
        port = TransportId.parse(memoryview(data))
    except ProtocolError:
        return
    assert len(data) >= TransportId.length_of(data)
    assert port.text
