# SPDX-License-Identifier: Apache-2.0
"""Single PDUs that vanish or are damaged on the way: what error recovery level 1 is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class PduRule:
    """Which PDUs of full feature phase, and how many were caught so far.

    ``opcode`` is the PDU's; ``sent`` whether the target sends it (else it receives it). The first
    ``skip`` of them pass, then each ``every``-th is caught, ``times`` in all (None: without end).
    ``when`` looks at the PDU.
    """

    def __init__(
        self,
        opcode: int,
        *,
        damages: bool,
        sent: bool,
        skip: int = 0,
        every: int = 1,
        times: int | None = 1,
        when: Callable[[Any], bool] | None = None,
    ) -> None:
        self.opcode = int(opcode)
        self.damages = damages
        self.sent = sent
        self.caught = 0
        self._skip = skip
        self._every = every
        self._times = times
        self._when = when
        self._met = 0

    def matches(self, pdu: Any, *, sent: bool) -> bool:
        """True when this PDU falls under the rule; it is then counted."""
        if sent is not self.sent or int(pdu.opcode) != self.opcode:
            return False
        if (self._when is not None and not self._when(pdu)) or (self.damages and not len(pdu.data)):
            return False
        self._met += 1
        if self._times is not None and self.caught >= self._times:
            return False
        if self._met <= self._skip or (self._met - self._skip) % self._every:
            return False
        self.caught += 1
        return True

    def cancel(self) -> None:
        """Catch nothing more."""
        self._times = self.caught
