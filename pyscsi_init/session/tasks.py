# SPDX-License-Identifier: Apache-2.0
"""The tasks of a session: tags, what is in flight, what waits, and what a lost connection leaves.

It owns the Initiator Task Tags and decides, when a connection dies, what becomes of each command:
sent again behind the barrier, or ended with OutcomeUnknown. It knows no PDU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..errors import IscsiError, OutcomeUnknown, TaskAborted, TaskTimeout
from .task import ManagementTask, Replay, ScsiTask, TaskState, TextTask

MAX_SILENCES = 4
"""How often one command may go unanswered before it, not the network, is the problem."""

MAX_ATTEMPTS = 64
"""How often one command may be sent: connections that die are no fault of the command, unless it is
what kills them. At two seconds a login this is two minutes of a network that comes and goes."""


def may_be_sent_again(task: ScsiTask) -> bool:
    """Doing it twice is safe, and it has not been tried too often."""
    return (
        task.replay is Replay.SAFE and task.silences < MAX_SILENCES and task.attempts < MAX_ATTEMPTS
    )


class Ping:
    """A NOP-Out of ours that waits for its NOP-In."""

    __slots__ = ("initiator_task_tag",)

    def __init__(self) -> None:
        self.initiator_task_tag = 0xFFFFFFFF


Request = ManagementTask | TextTask | Ping


class TaskTable:
    """In flight by tag, and waiting in order.

    ``in_flight`` holds a SCSI task iff the target has its command and no status of it was seen.
    ``unknown_outcome`` holds a LUN iff a command that modifies the medium behind it was lost with
    its connection, and no LOGICAL UNIT RESET of it was answered since.
    """

    def __init__(self) -> None:
        self.in_flight: dict[int, ScsiTask] = {}
        self.requests: dict[int, Request] = {}
        self.waiting: deque[ScsiTask] = deque()
        self.control: deque[ScsiTask] = deque()
        self.unknown_outcome: set[bytes] = set()
        self.last_tag = 0
        self.bidirectional = 0
        """Commands that transfer both ways and have not ended."""

    def new_tag(self) -> int:
        """A tag that no outstanding task has (RFC 7143 11.2.1.8); never the reserved one."""
        tag = self.last_tag
        while True:
            tag = tag + 1 if tag < 0xFFFFFFFE else 0
            if tag not in self.in_flight and tag not in self.requests:
                self.last_tag = tag
                return tag

    @property
    def outstanding(self) -> int:
        """Commands and requests that the target owes an answer to."""
        return len(self.in_flight) + len(self.requests)

    def put_back(self, task: ScsiTask) -> None:
        """To the head of its queue, to be sent from the start."""
        task.state = TaskState.QUEUED
        task.reset_transfer()
        (self.control if task.control else self.waiting).appendleft(task)

    def remove_waiting(self, task: ScsiTask) -> bool:
        """Take a task out of the queues; False if it is in none."""
        for queue in (self.waiting, self.control):
            try:
                queue.remove(task)
            except ValueError:
                continue
            return True
        return False

    def end_requests(self, error: IscsiError) -> list[Callable[[], None]]:
        """What never survives a connection (RFC 7143 7.14): requests, and commands that are being
        aborted; the rest of what is in flight stays.

        Returns the completions to call once the session is consistent again.
        """
        finished: list[Callable[[], None]] = []

        def end(task: ScsiTask | ManagementTask | TextTask, why: IscsiError) -> None:
            finished.append(lambda: task.finish(why))

        for task in list(self.in_flight.values()):
            if task.state is TaskState.ABORTING:
                del self.in_flight[task.initiator_task_tag]
                if task.modifies:
                    self.unknown_outcome.add(task.lun)
                end(
                    task,
                    TaskAborted("aborted by its caller; the connection died before the answer"),
                )
        for request in self.requests.values():
            if not isinstance(request, Ping):
                end(request, error)
        self.requests.clear()
        return finished

    def connection_lost(self, error: IscsiError) -> list[Callable[[], None]]:
        """Sort what was in flight: back to the head of the queue, or ended.

        Returns the completions to call once the session is consistent again.
        """
        finished = self.end_requests(error)
        again: list[ScsiTask] = []

        def end(task: ScsiTask, why: IscsiError) -> None:
            finished.append(lambda: task.finish(why))

        for task in self.in_flight.values():
            if task.modifies:
                self.unknown_outcome.add(task.lun)
            if task.control:
                end(task, error)
            elif may_be_sent_again(task):
                task.state = TaskState.SUSPENDED
                task.reset_transfer()
                again.append(task)
            elif task.replay is Replay.SAFE:
                end(task, TaskTimeout(f"no status after {task.attempts} attempts ({error})"))
            else:
                end(
                    task,
                    OutcomeUnknown(
                        f"the connection died under command {task.cdb[0]:02x}h; it may have been "
                        f"done or not, and repeating it is not safe ({error})"
                    ),
                )
        for task in self.control:
            end(task, error)
        self.in_flight.clear()
        self.control.clear()
        self.waiting.extendleft(reversed(again))
        return finished

    def end_waiting(self, error: IscsiError) -> list[Callable[[], None]]:
        """Empty the queue: what waited ends with ``error``. Returns the completions to call."""
        tasks = [*self.waiting, *self.control]
        self.waiting.clear()
        self.control.clear()
        return [lambda task=task: task.finish(error) for task in tasks]  # type: ignore[misc]
