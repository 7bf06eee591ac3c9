# SPDX-License-Identifier: Apache-2.0
"""Commands that transfer both ways (R=1 and W=1), such as XDWRITEREAD.

Expected Data Transfer Length is what is written; what is to be read goes in an AHS (RFC 7143
11.2.2.4), and has a residual of its own (11.4.5). R2T and Data-In of such a command share one
numbering (11.7.5).

They are rare, so the common case knows nothing of them: while one has not ended, the session keeps
to the plain path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import IscsiError, LocalProtocolError, ProtocolError
from ..pdu.fast import BIDI_O_BIT, BIDI_U_BIT
from .data_out import NO_MORE_DATA
from .task import ScsiTask

if TYPE_CHECKING:
    from .machine import SessionMachine


def _nothing() -> None:
    pass


class BidirectionalTask(ScsiTask):
    """A command with ``data_out`` and ``data_in``, neither of them empty.

    After completion also: ``bidi_residual_count`` with ``bidi_residual_overflow`` or
    ``bidi_residual_underflow``, for what was read; the residual of a :class:`ScsiTask` is for what
    was written.
    """

    __slots__ = (
        "bidi_residual_count",
        "bidi_residual_overflow",
        "bidi_residual_underflow",
        "over",
        "stopped",
    )

    def __init__(
        self,
        lun: bytes,
        cdb: bytes,
        completion: Callable[[ScsiTask], None],
        *,
        data_in: memoryview,
        data_out: memoryview,
        **options: Any,
    ) -> None:
        self.over: Callable[[], None] = _nothing
        super().__init__(lun, cdb, completion, data_in=data_in, data_out=data_out, **options)

    def reset_transfer(self) -> None:
        self.stopped = 0
        super().reset_transfer()
        self.bidi_residual_count = 0
        self.bidi_residual_overflow = False
        self.bidi_residual_underflow = False

    @property
    def r2t_sn(self) -> int:
        """RFC 7143 11.7.5: R2T and Data-In share the numbering. While no data of the task is sent
        any more (fast_abort.py) its Data-In is still counted."""
        return self.stopped or self.data_sn

    @r2t_sn.setter
    def r2t_sn(self, value: int) -> None:
        if value >= NO_MORE_DATA:
            # An R2T that is not answered has a number all the same.
            self.data_sn += bool(self.stopped)
            self.stopped = value
        elif self.stopped:
            self.stopped = 0
        else:
            self.data_sn = value

    @property
    def data_in_due(self) -> int:
        assert self.data_in is not None  # noqa: S101  (for mypy)
        missing = self.bidi_residual_count if self.bidi_residual_underflow else 0
        return len(self.data_in) - missing

    def take_residual(self, flags: int, count: int) -> None:
        """The residual of what was read, from a SCSI Response.

        Raises:
            ProtocolError: it cannot be (RFC 7143 11.4.1, 11.4.5).
        """
        overflow, underflow = bool(flags & BIDI_O_BIT), bool(flags & BIDI_U_BIT)
        if overflow and underflow:
            raise ProtocolError("SCSI Response with both the o and the u bit (RFC 7143 11.4.1)")
        assert self.data_in is not None  # noqa: S101  (for mypy)
        if underflow and count > len(self.data_in):
            raise ProtocolError(
                f"bidirectional residual of {count} bytes in a read of {len(self.data_in)} bytes"
            )
        self.bidi_residual_overflow = overflow
        self.bidi_residual_underflow = underflow
        self.bidi_residual_count = count if overflow or underflow else 0

    def finish(self, error: IscsiError | None = None) -> None:
        over, self.over = self.over, _nothing
        over()
        super().finish(error)


def submit_bidirectional(session: SessionMachine, task: BidirectionalTask, now: float) -> None:
    """As ``SessionMachine.submit``. Only at error recovery level 0: what is missing of two
    directions that share their numbers cannot be asked for again."""
    if session.parameters.error_recovery_level:
        task.finish(
            LocalProtocolError(
                "a command that transfers both ways is sent at ErrorRecoveryLevel 0 only, and the "
                f"session has {session.parameters.error_recovery_level}: open one with level 0"
            )
        )
        return
    tasks = session.tasks

    def over() -> None:
        tasks.bidirectional -= 1
        session.fast.review()

    tasks.bidirectional += 1
    task.over = over
    session.fast.review()
    session.submit(task, now)
