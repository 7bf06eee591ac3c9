# SPDX-License-Identifier: Apache-2.0
"""The barrier: what must have happened between a new login and the first replayed command.

Logging in again is not a barrier. A write of the dead connection may still be on its way to the
medium, on a target that is slow, and would land on top of its own replay or of a newer write to the
same block. Only LOGICAL UNIT RESET is certain to be answered after it. So: reset, unit attentions,
identity, content, and only then replay.

Where the unit is fenced (fence.py) one question comes before all that: is it still ours? A node
that was fenced off sends no reset either, because that would end the commands of the node that has
the unit now.
"""

from __future__ import annotations

from ..errors import ReservationConflict
from .fence import Fence
from .identity import ContentWitness, Identity, check_same_unit
from .probe import become_ready, probe_identity, read_head
from .steps import ResetUnit, Steps


def barrier(
    what: str,
    known: Identity,
    witness: ContentWitness,
    *,
    unknown_outcome: bool,
    read_only: bool,
    fence: Fence | None = None,
) -> Steps[Identity]:
    """Make sure that nothing old is under way and that the same unit answers.

    ``unknown_outcome``: a command that modifies the medium was lost. A device attached read-only
    never sends one, and must not disturb the others who use the unit, so it skips the reset.
    Where another initiator's reservation keeps us from reading, the content is not compared, unless
    the unit has a ``fence``: then it is ours to read.

    Returns the identity as it is now; the size may have grown.

    Raises:
        Fenced: another node has taken the unit over.
        IdentityMismatch, CapacityShrunk: another unit; nothing may be sent to it.
        IscsiError: the barrier could not be made now; try again.
    """
    forgotten = False
    if fence is not None:
        yield from become_ready()
        check_same_unit(known, (yield from probe_identity(what)))
        forgotten = not (yield from fence.check())
    if unknown_outcome and not read_only:
        yield ResetUnit()
    yield from become_ready()
    now = yield from probe_identity(what)
    check_same_unit(known, now)
    try:
        head = yield from read_head(now.block_size, min(now.size_bytes, witness.length))
    except ReservationConflict:
        if fence is not None:
            raise  # taken over since the check: the next attempt begins with another one
        # Another initiator took the unit for itself meanwhile. What waits for this barrier has to
        # hear of it, and hears it from the unit: its commands meet the same conflict.
        witness.forget()
        return now
    witness.check(head)
    if witness.stale:
        witness.refresh(head)
    if fence is not None and forgotten:
        # Not sooner: on another disk nothing of ours must stay, not even a registration.
        yield from fence.renew()
    return now
