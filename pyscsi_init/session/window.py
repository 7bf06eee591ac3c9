# SPDX-License-Identifier: Apache-2.0
"""The command window: CmdSN, ExpCmdSN and MaxCmdSN (RFC 7143 4.2.2.1).

These three numbers belong to the session. A non-immediate command may leave while CmdSN is not
beyond MaxCmdSN; an immediate one carries the current CmdSN and does not advance it.
"""

from __future__ import annotations

from ..errors import ProtocolError
from ..serial import serial_gt, serial_le, serial_lt

_MASK = 0xFFFFFFFF


class CommandWindow:
    """The numbers of one session, from its leading login on."""

    __slots__ = ("cmd_sn", "exp_cmd_sn", "max_cmd_sn")

    def __init__(self, cmd_sn: int) -> None:
        self.cmd_sn = cmd_sn
        self.exp_cmd_sn = cmd_sn
        # Before the first response the window holds the login alone (RFC 7143 11.12.8).
        self.max_cmd_sn = cmd_sn

    @property
    def open_slots(self) -> int:
        """How many more non-immediate commands may leave now."""
        slots = (self.max_cmd_sn - self.cmd_sn + 1) & _MASK
        return slots if slots < 0x80000000 else 0

    def take(self) -> int:
        """The CmdSN of the next non-immediate command; advances. The caller checked open_slots."""
        cmd_sn = self.cmd_sn
        self.cmd_sn = (cmd_sn + 1) & _MASK
        return cmd_sn

    def update(self, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """Take the numbers of a target PDU.

        Raises:
            ProtocolError: ExpCmdSN is ahead of every command that was sent: the target counted
                something that we did not, and no later command would ever fit.
        """
        if exp_cmd_sn == self.exp_cmd_sn and max_cmd_sn == self.max_cmd_sn:
            return
        # RFC 7143 4.2.2.1: "If the PDU MaxCmdSN is less than the PDU ExpCmdSN-1 (in Serial
        # Arithmetic sense), they are both ignored."
        # Half the circle away is in no order (RFC 1982), so no window either: CmdSN is never
        # more than 2**31-2 ahead of ExpCmdSN, which is what RFC 7143 4.2.2.1 wants after a retry.
        if not serial_le((exp_cmd_sn - 1) & _MASK, max_cmd_sn):
            return
        # Both only move forward: a PDU that was overtaken carries older numbers.
        if serial_gt(max_cmd_sn, self.max_cmd_sn):
            self.max_cmd_sn = max_cmd_sn
        if serial_gt(exp_cmd_sn, self.exp_cmd_sn):
            if serial_gt(exp_cmd_sn, self.cmd_sn):
                raise ProtocolError(
                    f"ExpCmdSN {exp_cmd_sn} is ahead of our CmdSN {self.cmd_sn}: the target "
                    f"counted a command that was never sent (RFC 7143 4.2.2.1)"
                )
            self.exp_cmd_sn = exp_cmd_sn

    def is_unacknowledged(self, cmd_sn: int) -> bool:
        """The target has not counted this command yet."""
        return not serial_lt(cmd_sn, self.exp_cmd_sn)

    def __repr__(self) -> str:
        return f"<CommandWindow CmdSN={self.cmd_sn} Exp={self.exp_cmd_sn} Max={self.max_cmd_sn}>"
