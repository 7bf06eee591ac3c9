# SPDX-License-Identifier: Apache-2.0
"""The I_T nexus without its socket: commands in, completions out, over one connection at a time.

Theory of operation. The one who owns the socket calls ``connect`` when TCP is up, then moves bytes:
``receive_buffers`` and ``bytes_received`` one way, ``data_to_send`` and ``bytes_sent`` the other. A
command enters with ``submit`` and ends with its completion. Rare things come out of ``next_event``.
Time comes in as ``now``, deadlines go out of ``next_deadline``.

When the connection dies, the tasks that may be done twice wait at the head of the queue, the others
end with OutcomeUnknown. After the next login the queue stays closed (``held``): only control tasks
pass, with which the owner of the device makes its barrier. ``resume`` opens it.

That is error recovery level 0. At level 1 and above repair.py stands before the handlers of
receive.py and mends what it can, and at level 2 continuation.py keeps the tasks of a dead
connection for the next one; what they cannot do ends as above.

INVARIANT: CmdSN is given to a command when its PDU enters the connection's queue, in that order, so
commands leave in CmdSN order. (tests/pyscsi_init/session/test_machine.py)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from ..connection import Buffer, ConnectionMachine, ConnectionState
from ..errors import (
    ConnectionLost,
    HeaderDigestError,
    IscsiError,
    LocalProtocolError,
    LoginError,
    ProtocolError,
    SessionFailed,
    TaskAborted,
)
from ..login import Parameters
from ..secret import Chap
from ..settings import Settings
from .beginning import begin_login, logged_in
from .continuation import Continuation, abandon
from .deadlines import handle_deadline
from .ending import connection_over, end_session, lose
from .events import ConnectionEnded, Event
from .fast_path import FastPath
from .flow import pump
from .management import abort, conclude, send_management
from .receive import Handler, data_in_place, receive
from .repair import Repair
from .requests import send_logout, send_ping, start_text_task
from .states import SessionState
from .task import ManagementTask, ScsiTask, TaskState, TextTask
from .tasks import TaskTable
from .window import CommandWindow


class SessionMachine:
    """One session with one target, through any number of successive connections."""

    def __init__(
        self,
        settings: Settings,
        *,
        initiator_name: str,
        target_name: str | None,
        isid: bytes,
        random_bytes: Callable[[int], bytes],
        chap: Chap | None = None,
        discovery: bool = False,
    ) -> None:
        self.settings = settings
        self.initiator_name = initiator_name
        self.target_name = target_name
        self.isid = isid
        self.chap = chap
        self.discovery = discovery
        self.random_bytes = random_bytes
        self.state = SessionState.Q1_FREE
        self.tsih = 0
        self.parameters = Parameters()
        self.window = CommandWindow(0)
        self.tasks = TaskTable()
        self.connection: ConnectionMachine | None = None
        self.held = False
        """Logged in again, but only control tasks may pass."""
        self.refusing: IscsiError | None = None
        """Why new commands end at once instead of waiting for the session to come back."""
        self.closing = False
        self.rejects = 0
        self.events: deque[Event] = deque()
        self.scan_at: float | None = None
        self.logout_by: float | None = None
        self.deadlines_moved = True
        """``next_deadline`` may be sooner than it was; whoever has a timer looks and sets False."""
        self.stalled_since: float | None = None
        """Since when commands wait for the window to open while nothing is under way."""
        self.wait: float | None = None
        """Seconds before the next login that the target asked for, if it did."""
        self.retain: float | None = None
        """Seconds after that for which the target keeps the tasks, if it said so."""
        self.take_frame: Handler = receive
        """What handles a PDU of full feature phase at the level in force."""
        self.repair: Repair | None = None
        """What the connection is missing; None at error recovery level 0."""
        self.continuation: Continuation | None = None
        self.fast = FastPath(self)

    # -- bytes -----------------------------------------------------------------------------------

    def connect(self, now: float, *, chap: Chap | None = None) -> None:
        """TCP is up: start the login phase, of the session or (``continuing``) of a connection that
        takes the place of a dead one. ``chap`` stands in for the session's own this once.

        Raises:
            LocalProtocolError: there is a connection already, or the session is closed.
        """
        if self.connection is not None or self.closing:
            raise LocalProtocolError("the session has a connection, or is closed")
        begin_login(self, now, chap or self.chap)

    def receive_buffers(self) -> tuple[memoryview, ...]:
        """Where the socket may put the next bytes, in this order; writable, none empty.

        Raises:
            LocalProtocolError: there is no connection.
        """
        connection = self.connection
        if connection is None:
            raise LocalProtocolError("no connection to receive for")
        return self.fast.receive_buffers(connection)

    def bytes_received(self, count: int, now: float) -> None:
        """``count`` bytes were put into the receive buffers. Completions are called from here."""
        connection = self.connection
        if connection is None:
            return
        fast = self.fast
        try:
            if fast.direct is not None:
                count, task = fast.direct_received(count)
                if task is not None:
                    data_in_place(self, connection, task, fast.direct_header)
            connection.bytes_received(count, now)
            framer = connection.framer
            while self.connection is connection:
                fast.receive()
                if framer.start == framer.end or (frame := connection.next_frame()) is None:
                    break
                if connection.state is ConnectionState.S4_IN_LOGIN:
                    result = connection.login_frame_received(frame)
                    if result is not None:
                        logged_in(self, connection, result, now)
                else:
                    self.take_frame(self, connection, frame, now)
        except (ProtocolError, LoginError) as error:
            if self.connection is connection:
                # A header digest error is the wire's fault, the others are the target's.
                self.lose(error, now if isinstance(error, HeaderDigestError) else None)
            return
        tasks = self.tasks
        if tasks.waiting and fast.connection is not None:
            fast.drain()
        if tasks.waiting or tasks.control or self.logout_by is not None or self.stalled_since:
            pump(self, now)

    def receive_eof(self, now: float) -> None:
        """The target closed its side, or the socket failed: the connection is over."""
        self.connection_failed("the target closed the connection", now)

    def connection_failed(self, reason: str, now: float) -> None:
        """The connection is dead for a reason that the socket gives."""
        connection = self.connection
        if connection is not None and connection.state is ConnectionState.S4_IN_LOGIN:
            self.lose(LoginError(f"{reason} in the login phase"))
        else:
            self.lose(ConnectionLost(reason), now)

    def data_to_send(self) -> Sequence[Buffer]:
        """The buffers to send next; report what was sent with ``bytes_sent``."""
        return self.connection.data_to_send() if self.connection is not None else ()

    def bytes_sent(self, count: int) -> bool:
        """``count`` bytes of ``data_to_send`` left; whether nothing is left to send."""
        return self.connection is None or self.connection.bytes_sent(count)

    def next_event(self) -> Event | None:
        """The next thing to know, or None. Ask after every call that takes ``now``."""
        return self.events.popleft() if self.events else None

    def emit(self, event: Event) -> None:
        """Add an event; for the parts of the session."""
        self.events.append(event)

    # -- intentions ------------------------------------------------------------------------------

    def submit(self, task: ScsiTask, now: float) -> None:
        """Start a command, or queue it until the window, the session or the barrier lets it
        pass."""
        if self.closing or (self.refusing is not None and not task.control):
            task.finish(self.refusing or SessionFailed("the session is closed"))
            return
        if task.control:
            if self.connection is None or not self.connection.full_feature:
                task.finish(ConnectionLost("the session is not logged in"))
                return
            task.state = TaskState.QUEUED
            self.tasks.control.append(task)
        else:
            task.state = TaskState.QUEUED
            self.tasks.waiting.append(task)
        pump(self, now)

    def abort_task(self, task: ScsiTask, now: float) -> None:
        """Ask that a task ends; it completes once, with TaskAborted or with what it came to."""
        if task.state is TaskState.SENT and self.connection is None:
            if task.modifies:
                abandon(self, ConnectionLost("a write was cancelled while its connection was lost"))
            else:
                del self.tasks.in_flight[task.initiator_task_tag]
                task.finish(TaskAborted("cancelled while its connection was lost"))
        if task.state in (TaskState.QUEUED, TaskState.SUSPENDED):
            if self.tasks.remove_waiting(task):
                task.finish(TaskAborted("cancelled before it was sent"))
        elif task.state is TaskState.SENT:
            task.state = TaskState.ABORTING
            abort(self, task, TaskAborted("cancelled"), now)

    def manage(self, request: ManagementTask, now: float) -> None:
        """Send a task management request (immediate, so the window does not hold it up)."""
        send_management(self, request, now)

    def request_text(self, task: TextTask, now: float) -> None:
        """Start a text exchange in full feature phase; one at a time (RFC 7143 11.10)."""
        start_text_task(self, task, now)

    def request_logout(self, now: float) -> None:
        """Close the session: after what is in flight, at the latest after the logout time-out.

        What waits in the queue ends with SessionFailed. Ends with ConnectionEnded(again=False).
        """
        self.closing = True
        self.fast.review()
        closed = SessionFailed("the session was closed")
        for finish in self.tasks.end_waiting(closed):
            finish()
        connection = self.connection
        if connection is None or connection.state is ConnectionState.S4_IN_LOGIN:
            abandon(self, closed)
            for finish in self.tasks.end_waiting(closed):
                finish()
            if connection is not None:
                self.lose(closed)
                return
            end_session(self)
            self.emit(ConnectionEnded(None, 0.0, again=False))
        elif connection.state is not ConnectionState.S6_IN_LOGOUT:
            self.logout_by = now + self.settings.logout_timeout
            self.deadlines_moved = True
            pump(self, now)

    def resume(self, now: float) -> None:
        """The barrier is passed: let the queue flow, replay first."""
        self.held = False
        self.refusing = None
        self.fast.review()
        pump(self, now)

    def refuse(self, error: IscsiError) -> None:
        """Stop waiting for the session: what is queued ends with ``error``, and so does what comes,
        until ``resume``. Login attempts may go on meanwhile."""
        self.refusing = error
        self.fast.review()
        abandon(self, error)
        for finish in self.tasks.end_waiting(error):
            finish()

    def drop_connection(self, reason: str, now: float) -> None:
        """Give up the connection on purpose; the session recovers from the start."""
        connection = self.connection
        if connection is not None and connection.state is ConnectionState.S4_IN_LOGIN:
            self.connection_failed(reason, now)
        else:
            self.lose(ConnectionLost(reason))

    @property
    def continuing(self) -> bool:
        """The connection is lost, and its tasks wait for one that takes its place (error recovery
        level 2): ``connect`` will ask for that, at the same portal."""
        return self.continuation is not None

    def abandon(self, error: IscsiError) -> None:
        """Give up continuing: the next ``connect`` begins the session anew, with its barrier."""
        abandon(self, error)

    # -- time ------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``handle_deadline`` wants to be called, at the latest."""
        deadlines = [self.scan_at, self.logout_by]
        if self.connection is not None:
            deadlines.append(self.connection.next_deadline())
        elif self.continuation is not None:
            deadlines.append(self.continuation.until)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        """Act on what is due at ``now``."""
        handle_deadline(self, now)

    # -- inside ----------------------------------------------------------------------------------

    def requeue(self, task: ScsiTask) -> None:
        """A command in flight was not carried out and goes back to the head of its queue."""
        del self.tasks.in_flight[task.initiator_task_tag]
        self.tasks.put_back(task)

    def end(self, task: ScsiTask, error: IscsiError | None = None) -> None:
        """A task in flight is over: let go of its memory, which may not all have left, and say
        so."""
        del self.tasks.in_flight[task.initiator_task_tag]
        connection = self.connection
        if (
            task.data_out is not None
            and connection is not None
            and not connection.has_left(task.queue_mark)
        ):
            connection.release(task.data_out)
        task.finish(error)

    def ping(self, now: float) -> None:
        """Ask the target for a sign of life."""
        send_ping(self, now)

    def log_out_now(self, now: float) -> None:
        """What is in flight had its time: send the logout."""
        if self.connection is not None:
            send_logout(self, self.connection, now)

    def conclude(self, request: ManagementTask) -> None:
        """A task management response came."""
        conclude(self, request)

    def time_out(self, task: ScsiTask, error: IscsiError, now: float) -> None:
        """A command got no status in time."""
        abort(self, task, error, now)

    def lose(self, error: IscsiError, now: float | None = None) -> None:
        """The connection is unusable: give it up; what becomes of the tasks, tasks.py says. With
        ``now`` it was no fault of the session, which may go on over another connection."""
        lose(self, error, now)

    def logout_answered(self) -> None:
        """The logout response with success came."""
        connection = self.connection
        if connection is not None:
            connection.logout_done()
            self.fast.drop()
            connection_over(self, connection, None, None)

    def __repr__(self) -> str:
        return (
            f"<SessionMachine {self.target_name} {self.state.name} CmdSN={self.window.cmd_sn} "
            f"window={self.window.open_slots} in flight={len(self.tasks.in_flight)} "
            f"waiting={len(self.tasks.waiting)}>"
        )
