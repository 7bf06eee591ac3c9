# SPDX-License-Identifier: Apache-2.0
"""Target port groups of a unit (ALUA, SPC-4 5.15): which ports reach it, and how well.

What is told here is what the unit says; commands through a port that is standby or unavailable end
with NotReady (04/0B, 04/0C), and those to one between two states are sent again for a while (04/0A,
or BUSY, as some units say it). Which path is taken is decided above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import OutcomeUnknown, TaskTimeout, Unsupported
from ..scsi import (
    DeviceIdentification,
    TargetPortGroups,
    inquiry,
    port_identifiers,
    report_target_port_groups,
    set_target_port_groups,
    set_target_port_groups_parameters,
    vpd_length,
)
from ..session import Replay
from .direct import DirectDevice
from .services import carry_out
from .steps import Command, Steps, demand_if_known

FIRST_LENGTH = 1024
LARGEST_LENGTH = 1 << 20
"""Bytes of target port groups; no unit has so many ports."""

LARGEST_PAGE = 65535
EXPLICIT = 0b10
"""TPGS: SET TARGET PORT GROUPS is known (SPC-4 table 137)."""

_IDENTIFICATION = 0x83


@dataclass(frozen=True, slots=True)
class TargetPort:
    """The target port of a session, as the unit names it; None where it does not tell."""

    relative_identifier: int | None
    group: int | None


class TargetPorts(DirectDevice):
    """The commands. All of them raise, besides what their text says:

    Unsupported: the unit does not know the command.
    ScsiError: another refusal. TaskError, ConnectionLost: no answer.
    """

    async def report_target_port_groups(self) -> TargetPortGroups:
        """The groups of target ports with their access states (ALUA)."""
        return await carry_out(self.unit, self._groups())

    async def target_port(self) -> TargetPort:
        """The port that this session came through (VPD page 83h)."""
        return await carry_out(self.unit, self._port())

    async def access_state(self) -> int | None:
        """The AccessState of the port that this session came through; None where the unit does not
        tell of it."""
        port = await self.target_port()
        if port.group is None:
            return None
        return (await self.report_target_port_groups()).state_of(port.group)

    async def set_target_port_groups(self, states: Mapping[int, int]) -> None:
        """Ask for other access states: group -> AccessState. The unit may change others with them.

        Not sent again after a lost connection: another node may have asked for others since.

        Raises:
            Unsupported: the unit manages its states by itself only.
            OutcomeUnknown: the connection died, and the groups are not all in these states now.
        """
        if not self.unit.facts.inquiry.tpgs & EXPLICIT:
            raise Unsupported(f"{self.unit.what} does not let initiators set access states (TPGS)")
        await carry_out(self.unit, self._set_groups(states))

    # -- sequences -------------------------------------------------------------------------------

    def _groups(self) -> Steps[TargetPortGroups]:
        length = FIRST_LENGTH
        while True:
            cdb = report_target_port_groups(length)
            command = Command(cdb, length, "REPORT TARGET PORT GROUPS")
            data = yield from demand_if_known(command, self.unit.what)
            needed = TargetPortGroups.length_of(data)
            if needed <= length or length >= LARGEST_LENGTH:
                return TargetPortGroups.parse(data)
            length = min(needed, LARGEST_LENGTH)

    def _port(self) -> Steps[TargetPort]:
        length = 255
        while True:
            command = Command(inquiry(length, _IDENTIFICATION), length, "VPD page 83h")
            data = yield from demand_if_known(command, self.unit.what)
            needed = vpd_length(data)
            if needed <= length or length >= LARGEST_PAGE:
                return TargetPort(*port_identifiers(DeviceIdentification.parse(data)))
            length = min(needed, LARGEST_PAGE)

    def _set_groups(self, states: Mapping[int, int]) -> Steps[None]:
        data = set_target_port_groups_parameters(states)
        command = Command(
            set_target_port_groups(len(data)),
            0,
            "SET TARGET PORT GROUPS",
            data_out=data,
            replay=Replay.NEVER,
            modifies=False,
        )
        try:
            yield from demand_if_known(command, self.unit.what)
        except (OutcomeUnknown, TaskTimeout) as error:
            now = yield from self._groups()
            if any(now.state_of(group) != state for group, state in states.items()):
                text = ", ".join(f"{each.group}: {each.state:X}h" for each in now.groups)
                raise OutcomeUnknown(f"{error}; the groups' states are now {text}") from error
