# SPDX-License-Identifier: Apache-2.0
"""Target port groups: both header formats, cut answers, any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.scsi import (
    AccessState,
    Association,
    Designator,
    DesignatorType,
    DeviceIdentification,
    TargetPortGroup,
    TargetPortGroups,
    parse_set_target_port_groups,
    port_identifiers,
    set_target_port_groups_parameters,
)

GROUPS = bytes.fromhex(
    "80 ff 0001 00 02 00 02 0000 0001 0000 0002"  # preferred, active/optimized, two ports
    "02 0f 0102 00 00 00 01 0000 0003"  # standby, one port
)
PLAIN = bytes.fromhex("0000001c") + GROUPS
EXTENDED = bytes.fromhex("00000020 10 1e 0000") + GROUPS
EXPECTED = (
    TargetPortGroup(
        group=1, state=0, preferred=True, supported_states=0xFF, status_code=2, ports=(1, 2)
    ),
    TargetPortGroup(group=0x102, state=2, supported_states=0x0F, ports=(3,)),
)


@pytest.mark.conformance("SCSI-030")
@pytest.mark.parametrize(("data", "seconds"), [(PLAIN, None), (EXTENDED, 30)])
def test_both_headers(data: bytes, seconds: int | None) -> None:
    report = TargetPortGroups.parse(data)
    assert report == TargetPortGroups(groups=EXPECTED, implicit_transition_time=seconds)
    assert report.build() == data
    assert TargetPortGroups.length_of(data) == len(data)


def test_state_of_a_group() -> None:
    report = TargetPortGroups.parse(PLAIN)
    assert report.state_of(1) == AccessState.ACTIVE_OPTIMIZED
    assert report.state_of(0x102) == AccessState.STANDBY
    assert report.state_of(3) is None
    assert [group.usable for group in report.groups] == [True, False]


@pytest.mark.conformance("SCSI-030")
@pytest.mark.parametrize(
    ("state", "usable"),
    [
        (0, True),
        (1, True),
        (2, False),
        (3, False),
        (4, True),
        (0xE, False),
        (0xF, False),
        (9, False),
    ],
)
def test_states_that_answer(state: int, usable: bool) -> None:
    assert TargetPortGroup(group=1, state=state).usable is usable


@pytest.mark.parametrize(("cut", "groups"), [(4, 0), (12, 0), (19, 0), (20, 1), (31, 1), (32, 2)])
def test_a_cut_group_is_left_out(cut: int, groups: int) -> None:
    assert TargetPortGroups.parse(PLAIN[:cut]).groups == EXPECTED[:groups]


def test_no_header_is_refused() -> None:
    with pytest.raises(ProtocolError):
        TargetPortGroups.parse(PLAIN[:3])


@given(
    st.lists(
        st.builds(
            TargetPortGroup,
            group=st.integers(0, 0xFFFF),
            state=st.integers(0, 15),
            preferred=st.booleans(),
            supported_states=st.integers(0, 255),
            status_code=st.integers(0, 255),
            ports=st.lists(st.integers(0, 0xFFFF), max_size=8).map(tuple),
        ),
        max_size=4,
    ),
    st.none() | st.integers(0, 255),
)
def test_what_is_built_is_parsed(groups: list[TargetPortGroup], seconds: int | None) -> None:
    report = TargetPortGroups(groups=tuple(groups), implicit_transition_time=seconds)
    assert TargetPortGroups.parse(report.build()) == report


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_or_a_protocol_error(data: bytes) -> None:
    try:
        TargetPortGroups.parse(memoryview(data))
    except ProtocolError:
        assert len(data) < 4


@pytest.mark.conformance("SCSI-030")
def test_set_list_golden() -> None:
    data = bytes.fromhex("00000000 00 00 0001 02 00 0102")
    states = {1: AccessState.ACTIVE_OPTIMIZED, 0x102: AccessState.STANDBY}
    assert set_target_port_groups_parameters(states) == data
    assert parse_set_target_port_groups(data) == states
    for cut in (0, 3, 5, 11):
        with pytest.raises(ProtocolError):
            parse_set_target_port_groups(data[:cut])


def _number(kind: int, value: str, association: int = Association.TARGET_PORT) -> Designator:
    return Designator(designator_type=kind, value=bytes.fromhex(value), association=association)


@pytest.mark.conformance("SCSI-030")
def test_the_port_that_answered() -> None:
    port, group = DesignatorType.RELATIVE_TARGET_PORT, DesignatorType.TARGET_PORT_GROUP
    page = DeviceIdentification(
        (
            _number(port, "00000009", Association.LOGICAL_UNIT),
            _number(group, "0102"),  # too short to be one
            _number(group, "00000102"),
            _number(port, "00000003"),
            _number(port, "00000004"),
        )
    )
    assert port_identifiers(page) == (3, 0x102)
    assert port_identifiers(DeviceIdentification(())) == (None, None)
