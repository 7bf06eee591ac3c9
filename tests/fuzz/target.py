# SPDX-License-Identifier: Apache-2.0
"""What a fuzz target is: a function of bytes, the errors it may end with, and where to begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyscsi_init.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class FuzzTarget:
    """``run(data)`` takes any bytes; whatever else than ``declared`` it raises is a defect.

    ``seeds`` are inputs that mean something, to be changed a little. ``weight`` is the target's
    share of the inputs. ``longest`` is where inputs are cut.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes] = (b"",)
    declared: tuple[type[Exception], ...] = (ProtocolError,)
    weight: float = 1.0
    longest: int = 1024

    def check(self, data: bytes) -> bool:
        """Run it; False where it was refused in the declared way."""
        try:
            self.run(data)
        except self.declared:
            return False
        return True
