# SPDX-License-Identifier: Apache-2.0
"""A session with a real socket under it: log in, keep it alive, come back after a loss, log out.

Theory of operation. The machine decides, the pump moves bytes, and ``_settle`` runs after every
step of either: it sends what is queued, acts on events and arms one timer. Which portal to log in
at is for login.py, and what happens after a loss for recovery.py; ``open_session`` puts them
together.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import get_ident

import anyio

from ..connection import ConnectionMachine
from ..errors import ConnectError, ConnectionLost, IscsiError, LocalProtocolError, ProtocolError
from ..login import Parameters
from ..names import Portal, isid_text
from ..secret import Chap
from ..session import (
    AsyncEventReceived,
    BidirectionalTask,
    ConnectionEnded,
    Continued,
    LoggedIn,
    LoginEnded,
    ManagementTask,
    ScsiTask,
    SessionMachine,
    SessionState,
    TextTask,
    Warned,
    describe_remains,
)
from ..session.bidirectional import submit_bidirectional
from ..settings import Settings
from .commands import SessionCommands
from .pump import Pump
from .reactor import Reactor, Timer
from .sockets import Connector, connect
from .statistics import SessionStatistics
from .trace import Trace

log = logging.getLogger("pyscsi_init.session")


@dataclass(frozen=True, slots=True)
class LoginOutcome:
    """How one attempt ended: without error in full feature phase; and the CHAP_A that was
    chosen."""

    error: IscsiError | None
    chap_algorithm: int | None


Restorer = Callable[[], Awaitable[None]]


class Session(SessionCommands):
    """An I_T nexus. Made by :func:`open_session`; safe to use until its block ends."""

    def __init__(
        self,
        reactor: Reactor,
        machine: SessionMachine,
        settings: Settings,
        connector: Connector = connect,
    ) -> None:
        self.reactor = reactor
        self._thread = get_ident()
        self._connect = connector
        self.settings = settings
        self.statistics = SessionStatistics()
        self.portal: Portal | None = None
        self.last_error: IscsiError | None = None
        self.restorers: list[Restorer] = []
        """Called in order after each new login, before held I/O goes on; may raise to try again."""
        self.async_events: list[Callable[[AsyncEventReceived], None]] = []
        self.failed: IscsiError | None = None
        """Set where the session will never come back, with the reason."""
        self.trace: Trace | None = None
        self._machine = machine
        self.start = machine.fast.start
        """The short cut of ``submit`` for who sees to the turn itself; False where the task was not
        taken; see :meth:`FastPath.start`."""
        reactor.polling.watch(machine.tasks.in_flight, settings.busy_poll)
        self.in_turn = False
        """``settle`` will be called at the end of this turn."""
        self._pump: Pump | None = None
        self._connection: ConnectionMachine | None = None
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._login_over: anyio.Event | None = None
        self._login_error: IscsiError | None = None
        self._closed = anyio.Event()
        self.lost: Callable[[float], None] | None = None
        """Called with the seconds to wait before the next login, when the connection is lost."""

    # -- facts -----------------------------------------------------------------------------------

    @property
    def target_name(self) -> str | None:
        """The target's iSCSI name; None in a discovery session."""
        return self._machine.target_name

    @property
    def initiator_name(self) -> str:
        """Ours."""
        return self._machine.initiator_name

    @property
    def isid(self) -> bytes:
        """Six bytes (RFC 7143 11.12.5)."""
        return self._machine.isid

    @property
    def tsih(self) -> int:
        """The target's handle of the session, from the last login."""
        return self._machine.tsih

    @property
    def parameters(self) -> Parameters:
        """What was negotiated at the last login."""
        return self._machine.parameters

    @property
    def state(self) -> SessionState:
        """RFC 7143 8.3."""
        return self._machine.state

    @property
    def recovering(self) -> bool:
        """Lost, or logged in again but not past the barrier yet."""
        return self._machine.held or self._machine.state is SessionState.Q4_FAILED

    def has_unknown_outcome(self, lun: bytes) -> bool:
        """A command that modifies this LUN was lost, and no LOGICAL UNIT RESET was answered
        since."""
        return lun in self._machine.tasks.unknown_outcome

    def __repr__(self) -> str:
        where = f"{self.target_name} at {self.portal}"
        return f"<Session {where} {self.state.name} ISID={isid_text(self.isid)}>"

    def check_thread(self) -> None:
        """Raise LocalProtocolError where it is used from another thread than its loop's: the answer
        would come there, and never here."""
        if get_ident() != self._thread:
            raise LocalProtocolError(
                f"{self!r} belongs to the event loop of another thread: have that loop call it "
                "(anyio.from_thread.run)"
            )

    # -- the data path ---------------------------------------------------------------------------

    def submit(self, task: ScsiTask) -> None:
        """Start a SCSI command; its completion is called on the loop's thread."""
        if not self.start(task):
            self._machine.submit(task, self.reactor.now())
        if not self.in_turn:
            self.begin_turn()

    def submit_bidirectional(self, task: BidirectionalTask) -> None:
        """Start a command that transfers both ways, like ``submit``."""
        submit_bidirectional(self._machine, task, self.reactor.now())
        if not self.in_turn:
            self.begin_turn()

    def begin_turn(self) -> None:
        """Something was asked of the machine: ``settle`` is called at the end of this turn."""
        self.in_turn = True
        self.reactor.at_end_of_turn(self.settle)

    def tasks(self) -> list[ScsiTask]:
        """The SCSI commands that have not ended: in flight, and waiting in order."""
        tasks = self._machine.tasks
        return [*tasks.in_flight.values(), *tasks.waiting]

    def abort_task(self, task: ScsiTask) -> None:
        """Ask that a command ends soon (ABORT TASK where it was sent already)."""
        self._machine.abort_task(task, self.reactor.now())
        self.reactor.at_end_of_turn(self.settle)

    def manage(self, request: ManagementTask) -> None:
        """Send a task management request."""
        self._machine.manage(request, self.reactor.now())
        self.reactor.at_end_of_turn(self.settle)

    def request_text(self, task: TextTask) -> None:
        """Start a text exchange."""
        self._machine.request_text(task, self.reactor.now())
        self.reactor.at_end_of_turn(self.settle)

    # -- inside ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Send what is queued, act on events, see to the timer: at the end of each turn in which
        the machine was asked for something."""
        self.in_turn = False
        machine = self._machine
        while True:
            if self._pump is not None:
                self._pump.flush()
            if not machine.events:
                break
            event = machine.next_event()
            if event is not None:
                self._handle(event)
        if machine.deadlines_moved or self._timer is None:
            self._arm()

    def _handle(self, event: object) -> None:
        if isinstance(event, LoggedIn):
            self.statistics.logins += 1
            self._login_is_over(None)
        elif isinstance(event, Continued):
            self.statistics.continuations += 1
            self.statistics.reassigned += event.reassigned
            self.statistics.sent_again += event.sent_again
        elif isinstance(event, LoginEnded):
            self._close_pump(event.error)
            self._login_is_over(event.error)
            if self._machine.closing:
                self._closed.set()
        elif isinstance(event, ConnectionEnded):
            self._close_pump(event.error)
            if event.again:
                self.statistics.losses += 1
                self.last_error = event.error
                log.info("session with %s lost: %s", self.target_name, event.error)
                if self.lost is not None:
                    self.lost(event.wait)
            else:
                self._closed.set()
        elif isinstance(event, AsyncEventReceived):
            for listener in self.async_events:
                listener(event)
        elif isinstance(event, Warned):
            log.info("%s: %s", self.target_name, event.text)

    def _login_is_over(self, error: IscsiError | None) -> None:
        self._login_error = error
        if self._login_over is not None:
            self._login_over.set()

    def _close_pump(self, error: IscsiError | None = None) -> None:
        if self._pump is not None:
            if self.trace is not None:
                self.trace.ends(error)
            if isinstance(error, (ConnectionLost, ProtocolError)) and self._connection is not None:
                lines = describe_remains(self._machine, self._connection)
                log.info("the connection ends: %s\n  %s", error, "\n  ".join(lines))
            self._pump.close(in_order=not isinstance(error, (ConnectionLost, ProtocolError)))
            self._pump = None

    def _arm(self) -> None:
        machine = self._machine
        machine.deadlines_moved = False
        deadline = machine.next_deadline()
        if deadline is None:
            return  # a timer that is still there finds nothing to do
        if self._timer is not None:
            if self._timer_at <= deadline:
                return  # it fires first and looks again: deadlines mostly move away
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.reactor.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._pump is not None:
            self._pump.look()
        self._machine.handle_deadline(self.reactor.now())
        self.settle()

    # -- login and its loss ----------------------------------------------------------------------

    async def log_in_at(self, portal: Portal, chap: Chap | None) -> LoginOutcome:
        """One attempt at one portal, from TCP to full feature phase or to the reason why not."""
        machine = self._machine
        try:
            sock = await self._connect(portal, self.settings.connect_timeout)
        except ConnectError as error:
            return LoginOutcome(error, None)
        try:
            machine.connect(self.reactor.now(), chap=chap)
        except BaseException as error:
            sock.close()
            if not isinstance(error, IscsiError):
                raise
            return LoginOutcome(error, None)
        if self.trace is not None:
            sock = self.trace.over(sock)
        assert machine.connection is not None  # noqa: S101  (for mypy: connect made it)
        self._connection = machine.connection
        login = machine.connection.login
        self._pump = Pump(self.reactor, sock, machine, self)
        self._login_over = anyio.Event()
        self._login_error = None
        try:
            self.reactor.at_end_of_turn(self.settle)
            await self._login_over.wait()
        except BaseException:
            self.drop("the login was cancelled")
            raise
        finally:
            self._login_over = None
        if self._login_error is None:
            self.portal = portal
        return LoginOutcome(self._login_error, login.chap_algorithm_chosen)

    @property
    def connected(self) -> bool:
        """There is a TCP connection, in whatever state."""
        return self._machine.connection is not None

    @property
    def continuing(self) -> bool:
        """The connection is lost and the session may go on over another one."""
        return self._machine.continuing

    def abandon(self, error: IscsiError) -> None:
        """The session will not go on: what was in flight waits for the next one, and its
        barrier."""
        self._machine.abandon(error)
        self.settle()

    def drop(self, reason: str) -> None:
        """Give up the connection, if there is one; recovery starts over."""
        self._machine.drop_connection(reason, self.reactor.now())
        self.settle()

    def resume(self) -> None:
        """The barrier is passed: held I/O goes on."""
        self._machine.resume(self.reactor.now())
        self.settle()

    def refuse(self, error: IscsiError) -> None:
        """What waits and what comes ends with ``error`` until ``resume``."""
        self._machine.refuse(error)
        self.settle()

    def fail(self, error: IscsiError) -> None:
        """End the session for good: what waits and what comes ends with ``error``."""
        self.failed = self.last_error = error
        log.error("session with %s failed: %s", self.target_name, error)
        self._machine.refuse(error)
        self._machine.request_logout(self.reactor.now())
        self.settle()

    # -- the end ---------------------------------------------------------------------------------

    async def log_out(self) -> None:
        """Log out and close, in bounded time, whatever the target does. Idempotent."""
        with anyio.CancelScope(shield=True):
            if not self._closed.is_set():
                self._machine.request_logout(self.reactor.now())
                self.settle()
                with anyio.move_on_after(2 * self.settings.logout_timeout + 1):
                    await self._closed.wait()
            self.drop("the session was closed")
            self._close_pump()
            self.reactor.polling.forget(self._machine.tasks.in_flight)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
