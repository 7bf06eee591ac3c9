# SPDX-License-Identifier: Apache-2.0
"""Persistent reservation data: golden data, cut lists, any bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.scsi import (
    FullStatus,
    RegisterAndMoveParameters,
    RegisteredKeys,
    Registration,
    Reservation,
    ReservationCapabilities,
    ReservationStatus,
    ReservationType,
    ReserveOutParameters,
    TransportId,
    persistent_reserve_length,
)

KEYS = st.integers(0, (1 << 64) - 1)


def test_keys_golden() -> None:
    data = bytes.fromhex("00000007 00000010 0000000000000001 0123456789abcdef")
    keys = RegisteredKeys.parse(data)
    assert keys == RegisteredKeys(generation=7, keys=(1, 0x0123456789ABCDEF))
    assert keys.build() == data


@pytest.mark.conformance("SCSI-029")
def test_a_hundred_keys_on_a_small_buffer() -> None:
    whole = RegisteredKeys(generation=1, keys=tuple(range(100))).build()
    cut = RegisteredKeys.parse(whole[:28])
    assert cut.keys == (0, 1)
    assert cut.truncated
    assert persistent_reserve_length(whole[:28]) == len(whole) == 808
    assert not RegisteredKeys.parse(whole).truncated


def test_reservation_golden() -> None:
    data = bytes.fromhex("00000002 00000010 0123456789abcdef 00000000 00 05 0000")
    status = ReservationStatus.parse(data)
    held = Reservation(
        key=0x0123456789ABCDEF,
        reservation_type=ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    )
    assert status == ReservationStatus(generation=2, reservation=held)
    assert status.build() == data


def test_no_reservation() -> None:
    status = ReservationStatus.parse(bytes.fromhex("00000002 00000000"))
    assert status.reservation is None
    assert status.build() == bytes.fromhex("00000002 00000000")


@pytest.mark.parametrize("length", range(8, 24))
def test_a_reservation_that_is_cut_off_is_not_guessed(length: int) -> None:
    whole = ReservationStatus(generation=2, reservation=Reservation(key=1, reservation_type=5))
    with pytest.raises(ProtocolError):
        ReservationStatus.parse(whole.build()[:length])


@pytest.mark.conformance("SCSI-029")
def test_capabilities_golden() -> None:
    data = bytes.fromhex("0008 1d 91 ea01 0000")
    capabilities = ReservationCapabilities.parse(data)
    assert capabilities == ReservationCapabilities(
        compatible_reservation_handling=True,
        specify_initiator_ports=True,
        all_target_ports=True,
        aptpl=True,
        aptpl_active=True,
        type_mask_valid=True,
        allow_commands=1,
        type_mask=0xEA01,
    )
    assert all(capabilities.supports(kind) for kind in ReservationType)
    assert ReservationCapabilities.type_mask_of(ReservationType) == 0xEA01
    assert capabilities.build() == data


@pytest.mark.parametrize("kind", list(ReservationType))
def test_each_type_has_its_bit(kind: ReservationType) -> None:
    mask = ReservationCapabilities.type_mask_of([kind])
    capabilities = ReservationCapabilities(type_mask_valid=True, type_mask=mask)
    assert [k for k in ReservationType if capabilities.supports(k)] == [kind]
    assert ReservationCapabilities(type_mask=mask).supports(kind) is None


@pytest.mark.conformance("SCSI-029")
def test_out_parameters_golden() -> None:
    data = bytes.fromhex("0000000000000001 0000000000000002 00000000 0d 00 0000")
    parameters = ReserveOutParameters(
        key=1,
        service_action_key=2,
        specify_initiator_ports=True,
        all_target_ports=True,
        aptpl=True,
    )
    assert parameters.build() == data
    assert ReserveOutParameters.parse(data) == parameters
    with pytest.raises(ProtocolError):
        ReserveOutParameters.parse(data[:23])


def test_a_key_has_8_bytes() -> None:
    with pytest.raises(LocalProtocolError):
        ReserveOutParameters(key=1 << 64).build()
    with pytest.raises(LocalProtocolError):
        RegisteredKeys(generation=0, keys=(1 << 64,)).build()


PORT = TransportId(initiator_name="iqn.2026-11.example:h1", isid=bytes.fromhex("800000000a01"))
PORT_DATA = "45 00 0028" + PORT.text.encode().hex() + "00"
NAME = TransportId(initiator_name="iqn.a")
NAME_DATA = "05 00 0014" + b"iqn.a".hex() + "00" * 15


def test_out_parameters_with_transport_ids_golden() -> None:
    data = bytes.fromhex("00" * 8 + "0000000000000002 00000000 08 00 0000 00000018" + NAME_DATA)
    parameters = ReserveOutParameters(
        service_action_key=2, specify_initiator_ports=True, transport_ids=(NAME,)
    )
    assert parameters.build() == data
    assert ReserveOutParameters.parse(data) == parameters
    for cut in (26, 27, 28, len(data) - 1):
        with pytest.raises(ProtocolError):
            ReserveOutParameters.parse(data[:cut])


@pytest.mark.conformance("SCSI-029")
def test_register_and_move_golden() -> None:
    data = bytes.fromhex("0000000000000001 0000000000000002 00 03 0102 0000002c" + PORT_DATA)
    parameters = RegisterAndMoveParameters(
        key=1,
        service_action_key=2,
        relative_target_port=0x102,
        transport_id=PORT,
        unregister=True,
        aptpl=True,
    )
    assert parameters.build() == data
    assert RegisterAndMoveParameters.parse(data) == parameters
    for cut in (23, 24, len(data) - 1):
        with pytest.raises(ProtocolError):
            RegisterAndMoveParameters.parse(data[:cut])


FULL = bytes.fromhex(
    "00000007 00000074"
    "0000000000000001 00000000 01 05 00000000 0102 0000002c"
    + PORT_DATA
    + "0000000000000002 00000000 02 00 00000000 0000 00000018"
    + NAME_DATA
)
REGISTRATIONS = (
    Registration(
        key=1, transport_id=PORT, relative_target_port=0x102, holder=True, reservation_type=5
    ),
    Registration(key=2, transport_id=NAME, all_target_ports=True),
)


@pytest.mark.conformance("SCSI-029")
def test_full_status_golden() -> None:
    status = FullStatus(generation=7, registrations=REGISTRATIONS)
    assert FullStatus.parse(FULL) == status
    assert status.build() == FULL
    assert persistent_reserve_length(FULL) == len(FULL)


@pytest.mark.parametrize(("cut", "count"), [(8, 0), (75, 0), (76, 1), (len(FULL) - 1, 1)])
def test_a_cut_registration_is_left_out(cut: int, count: int) -> None:
    assert FullStatus.parse(FULL[:cut]).registrations == REGISTRATIONS[:count]


@given(st.binary(max_size=120))
def test_any_bytes_are_a_full_status_or_a_protocol_error(data: bytes) -> None:
    for kind in (FullStatus, RegisterAndMoveParameters, ReserveOutParameters):
        with contextlib.suppress(ProtocolError):
            kind.parse(memoryview(data))


@given(st.integers(0, 0xFFFFFFFF), st.lists(KEYS, max_size=20))
def test_built_keys_are_parsed(generation: int, keys: list[int]) -> None:
    registered = RegisteredKeys(generation=generation, keys=tuple(keys))
    assert RegisteredKeys.parse(registered.build()) == registered


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed_or_a_protocol_error(data: bytes) -> None:
    for kind, needed in (
        (RegisteredKeys, 8),
        (ReservationStatus, 24),
        (ReservationCapabilities, 1),
        (ReserveOutParameters, 24),
    ):
        try:
            kind.parse(memoryview(data))
        except ProtocolError:
            lists_ports = kind is ReserveOutParameters and len(data) > needed and data[20] & 0x08
            assert len(data) < needed or data[4:8] < b"\0\0\0\x10" or lists_ports
