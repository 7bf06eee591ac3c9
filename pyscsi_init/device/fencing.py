# SPDX-License-Identifier: Apache-2.0
"""A fence (fence.py) on a real session: taken when a unit is opened, given back when it is closed.

What is registered and cannot be given back stays at the target, and keeps other nodes out: the log
says so. Whether a unit is still fenced is asked by its watch (watch.py).
"""

from __future__ import annotations

import logging

import anyio

from ..errors import ConfigurationError, IscsiError, Unsupported
from ..transport import Session
from .driver import drive
from .fence import Fence, Fencing, node_key

log = logging.getLogger("pyscsi_init.device")

RELEASE_SECONDS = 2.0
"""For giving a fence back; who force-detaches a volume waits no longer for its worker."""


async def take_fence(session: Session, lun: bytes, what: str, fencing: Fencing) -> Fence | None:
    """Make a unit ours; None where it has no persistent reservations and that may be so.

    Raises:
        HeldByAnother, Unsupported, ScsiError: it is not ours, and nothing of it stays.
    """
    key = node_key(session.initiator_name) if fencing.key is None else fencing.key
    if not 0 < key < 1 << 64:
        raise ConfigurationError("fencing key", key, "is not in 1..2**64-1")
    fence = Fence(what, key)
    try:
        await drive(fence.take(take_over=fencing.take_over), session, lun)
    except BaseException as error:
        if fence.registered:
            with anyio.CancelScope(shield=True):
                await give_back(fence, session, lun)
        if not isinstance(error, Unsupported):
            raise
        if fencing.required:
            raise Unsupported(
                f"{error}; so nothing keeps other nodes from writing, and fencing is required: "
                f"have the target support them, or fence with 'auto' or 'off'"
            ) from error
        log.info("%s: not fenced: %s", what, error)
        return None
    kept = ", kept through a loss of power" if fence.persists else ""
    log.info("%s: reserved for this node, key 0x%016x%s", what, fence.key, kept)
    tell_refusal(fence)
    return fence


def tell_refusal(fence: Fence) -> None:
    """Log that the unit refuses to keep registrations, if it does."""
    if fence.refuses_to_persist is not None:
        log.info(
            "%s: says that it keeps registrations through a loss of power, and refuses to (%s); "
            "after one the unit is reserved anew",
            fence.what,
            fence.refuses_to_persist,
        )


async def give_back(
    fence: Fence, session: Session, lun: bytes, *, everything: bool = False
) -> None:
    """Release and unregister, within a limit; never raises. A key that was found registered stays
    so, unless ``everything`` of this node is to go. What stays is said in the log."""
    if session.failed is not None:
        _tell(logging.WARNING, fence, f"the session has failed: {session.failed}")
        return
    if fence.found and not everything:
        # As it should be, where another volume of this node has the unit.
        _tell(logging.INFO, fence, "it was registered before")
        return
    why: object = "the target is away"
    if not session.recovering:
        why = f"no answer within {RELEASE_SECONDS:g} s"
        with anyio.move_on_after(RELEASE_SECONDS):
            try:
                await drive(fence.release(), session, lun)
            except IscsiError as error:
                why = error
    _tell(logging.WARNING, fence, why)


def _tell(level: int, fence: Fence, why: object) -> None:
    if fence.registered:
        log.log(
            level,
            "%s: the key 0x%016x of this node stays registered (%s): this node can attach it "
            "again, another one has to take it over",
            fence.what,
            fence.key,
            why,
        )
