# SPDX-License-Identifier: Apache-2.0
"""A session with a real socket under it: log in, keep it alive, come back after a loss, log out.

Theory of operation. The machine decides, the pump moves bytes, and ``_settle`` runs after every step
of either: it sends what is queued, acts on events and arms one timer. The first login is awaited by
the one who opens the session; after that a loss wakes ``_keep``, which logs in again for as long as
the policy allows, lets the owners of the devices pass their barrier (``restorers``), and opens the
queue. A loss during that starts it over.

INVARIANT: after a loss no command but those of a restorer leaves before every restorer has
returned. (tests/e2e/test_recovery.py)
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

from ..errors import (
    CapacityShrunk,
    ConnectError,
    IdentityMismatch,
    IscsiError,
    LocalProtocolError,
    LoginTimeout,
    SessionFailed,
    UnitAttention,
)
from ..login import Parameters
from ..names import Portal, check_iscsi_name, isid_text, make_isid
from ..scsi import Status, command_name, encode_lun, parse_report_luns, report_luns, scsi_error
from ..secret import Chap
from ..session import (
    AsyncEventReceived,
    ConnectionEnded,
    LoggedIn,
    LoginEnded,
    ManagementTask,
    ScsiTask,
    SessionMachine,
    SessionState,
    TextTask,
    Warned,
)
from ..settings import Settings
from .execute import Buffer, ScsiResult, run_command
from .initiator_name import host_initiator_name
from .login import LoginPlan, Step, combined
from .pump import Pump
from .reactor import Reactor, Timer, open_reactor
from .sockets import connect

log = logging.getLogger("pyscsi_init.session")

OPEN_TIMEOUT = 30.0
"""A first login that takes longer fails: the caller is there and waits for an answer."""

FIRST_DELAY = 0.25
LONGEST_DELAY = 5.0
"""Between login attempts after a loss: soon at first, then often enough to notice the target's return."""

MAX_UNIT_ATTENTIONS = 16
MAX_LUN_LIST = 2**20
"""Bytes of a REPORT LUNS answer: 131,071 LUNs."""

Restorer = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class SessionStatistics:
    """Counts since the session was opened."""

    logins: int = 0
    recoveries: int = 0
    """Losses that were recovered from."""
    losses: int = 0
    login_failures: int = 0


class Session:
    """An I_T nexus. Made by :func:`open_session`; safe to use until its block ends."""

    def __init__(
        self,
        reactor: Reactor,
        machine: SessionMachine,
        plan: LoginPlan,
        settings: Settings,
    ) -> None:
        self.reactor = reactor
        self.settings = settings
        self.statistics = SessionStatistics()
        self.portal: Portal | None = None
        self.last_error: IscsiError | None = None
        self.restorers: list[Restorer] = []
        """Called in order after each new login, before held I/O goes on; may raise to try again."""
        self.async_events: list[Callable[[AsyncEventReceived], None]] = []
        self.failed: IscsiError | None = None
        """Set where the session will never come back, with the reason."""
        self._machine = machine
        self._plan = plan
        self._pump: Pump | None = None
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._login_over: anyio.Event | None = None
        self._login_error: IscsiError | None = None
        self._wake = anyio.Event()
        self._closed = anyio.Event()
        self._wait = 0.0
        self._give_up: Timer | None = None
        self._chosen_algorithm: int | None = None

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
        """A command that modifies this LUN was lost, and no LOGICAL UNIT RESET was answered since."""
        return lun in self._machine.tasks.unknown_outcome

    def __repr__(self) -> str:
        return f"<Session {self.target_name} at {self.portal} {self.state.name} ISID={isid_text(self.isid)}>"

    # -- the data path ---------------------------------------------------------------------------

    def submit(self, task: ScsiTask) -> None:
        """Start a SCSI command; its completion is called on the loop's thread."""
        self._machine.submit(task, self.reactor.now())
        self.reactor.at_end_of_turn(self._settle)

    def abort_task(self, task: ScsiTask) -> None:
        """Ask that a command ends soon (ABORT TASK where it was sent already)."""
        self._machine.abort_task(task, self.reactor.now())
        self.reactor.at_end_of_turn(self._settle)

    def manage(self, request: ManagementTask) -> None:
        """Send a task management request."""
        self._machine.manage(request, self.reactor.now())
        self.reactor.at_end_of_turn(self._settle)

    def request_text(self, task: TextTask) -> None:
        """Start a text exchange."""
        self._machine.request_text(task, self.reactor.now())
        self.reactor.at_end_of_turn(self._settle)

    # -- commands as coroutines ------------------------------------------------------------------

    async def execute(
        self,
        lun: int | bytes,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        data_in_length: int = 0,
        seconds: float | None = None,
    ) -> ScsiResult:
        """Send any CDB to a LUN, as it is; the status must be GOOD.

        The command is not repeated, neither after a unit attention nor after a lost connection.

        Raises:
            ScsiError: another status, with what the unit said.
            OutcomeUnknown: the connection died first; it may have been done or not.
            TaskError, ConnectionLost: no status came for another reason.

        Cancellation: the command is aborted; it may have been done or not.
        """
        result = await run_command(
            self,
            encode_lun(lun),
            cdb,
            data_out=data_out,
            data_in_length=data_in_length,
            seconds=seconds,
        )
        if result.status not in (Status.GOOD, Status.CONDITION_MET):
            raise scsi_error(result.status, result.sense, command_name(cdb))
        return result

    async def report_luns(self) -> tuple[bytes, ...]:
        """The LUNs of the target, eight bytes each, as it lists them (REPORT LUNS).

        Raises:
            ScsiError: the target does not know the command, or refuses it.
        """
        length = 4096
        while True:
            data = b""
            for attempt in range(MAX_UNIT_ATTENTIONS):
                try:
                    answer = await self.execute(0, report_luns(length), data_in_length=length)
                except UnitAttention:
                    if attempt == MAX_UNIT_ATTENTIONS - 1:
                        raise
                else:
                    data = answer.data
                    break
            needed = int.from_bytes(data[:4], "big") + 8
            if needed <= length or length >= MAX_LUN_LIST:
                return parse_report_luns(data)
            length = min(needed, MAX_LUN_LIST)

    # -- inside ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        machine = self._machine
        while True:
            if self._pump is not None:
                self._pump.flush()
            event = machine.next_event()
            if event is None:
                break
            self._handle(event)
        self._arm()

    def _handle(self, event: object) -> None:
        if isinstance(event, LoggedIn):
            self.statistics.logins += 1
            self._login_is_over(None)
        elif isinstance(event, LoginEnded):
            self._close_pump()
            self._login_is_over(event.error)
            if self._machine.closing:
                self._closed.set()
        elif isinstance(event, ConnectionEnded):
            self._close_pump()
            self._wait = event.wait
            if event.again:
                self.statistics.losses += 1
                self.last_error = event.error
                log.info("session with %s lost: %s", self.target_name, event.error)
                self._limit_recovery()
                self._wake.set()
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

    def _close_pump(self) -> None:
        if self._pump is not None:
            self._pump.close()
            self._pump = None

    def _arm(self) -> None:
        deadline = self._machine.next_deadline()
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return  # it fires first and looks again: deadlines mostly move away
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.reactor.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._machine.handle_deadline(self.reactor.now())
        self._settle()

    # -- login -----------------------------------------------------------------------------------

    async def log_in(self) -> None:
        """One login, over all portals; raises what the last one said, or all of it."""
        plan = self._plan
        plan.start()
        errors: list[IscsiError] = []
        for first in list(plan.portals):
            portal: Portal | None = first
            while portal is not None:
                error = await self._log_in_at(portal)
                if error is None:
                    self.portal = portal
                    return
                self.statistics.login_failures += 1
                step = plan.next_step(portal, error, self._chosen_algorithm)
                if step is Step.FOLLOW:
                    log.info("portal %s sends us to %s", portal, plan.target)
                    portal = plan.target
                elif step is Step.AGAIN_WITH_MD5:
                    log.info("portal %s refuses CHAP; once more with MD5 only", portal)
                elif step is Step.GIVE_UP:
                    raise error
                else:
                    errors.append(error)
                    portal = None
        raise combined(errors)

    async def _log_in_at(self, portal: Portal) -> IscsiError | None:
        machine = self._machine
        self._chosen_algorithm = None
        try:
            sock = await connect(portal, self.settings.connect_timeout)
        except ConnectError as error:
            return error
        try:
            machine.connect(self.reactor.now(), chap=self._plan.chap)
        except IscsiError as error:
            sock.close()
            return error
        assert machine.connection is not None  # noqa: S101  (for mypy)
        login = machine.connection.login
        self._pump = Pump(self.reactor, sock, machine, self._settle)
        self._login_over = anyio.Event()
        self._login_error = None
        try:
            self.reactor.at_end_of_turn(self._settle)
            await self._login_over.wait()
        except BaseException:
            machine.drop_connection("the login was cancelled", self.reactor.now())
            self._close_pump()
            raise
        finally:
            self._login_over = None
            self._chosen_algorithm = login.chap_algorithm_chosen
        return self._login_error

    # -- recovery --------------------------------------------------------------------------------

    def _limit_recovery(self) -> None:
        limit = self.settings.recovery_timeout
        if limit is None or self._give_up is not None:
            return

        def give_up() -> None:
            self._give_up = None
            if self.recovering:
                self._machine.refuse(
                    SessionFailed(
                        f"the session with {self.target_name} is lost and did not come back within "
                        f"{limit:g} s ({self.last_error})"
                    )
                )

        if limit <= 0:
            give_up()
        else:
            self._give_up = self.reactor.call_at(self.reactor.now() + limit, give_up)

    async def keep(self) -> None:
        """Bring the session back after every loss, until it is closed or fails for good."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            delay = FIRST_DELAY
            await anyio.sleep(self._wait)
            while self.failed is None:
                try:
                    await self._recover_once()
                except (IdentityMismatch, CapacityShrunk) as error:
                    self.fail(error)
                except IscsiError as error:
                    self.last_error = error
                    if self._machine.connection is not None:
                        self._machine.drop_connection(str(error), self.reactor.now())
                        self._settle()
                    log.info("session with %s is not back yet: %s", self.target_name, error)
                    await anyio.sleep(delay)
                    delay = min(delay * 2, LONGEST_DELAY)
                else:
                    break

    async def _recover_once(self) -> None:
        # A loss that is told while we are at it is answered right here, by the caller's loop.
        self._wake = anyio.Event()
        if self._machine.connection is None:
            await self.log_in()
        for restorer in list(self.restorers):
            await restorer()
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        self.statistics.recoveries += 1
        log.info("session with %s is back at %s", self.target_name, self.portal)
        self._machine.resume(self.reactor.now())
        self._settle()

    def fail(self, error: IscsiError) -> None:
        """End the session for good: what waits and what comes ends with ``error``."""
        self.failed = self.last_error = error
        log.error("session with %s failed: %s", self.target_name, error)
        self._machine.refuse(error)
        self._machine.request_logout(self.reactor.now())
        self._settle()

    # -- the end ---------------------------------------------------------------------------------

    async def log_out(self) -> None:
        """Log out and close, in bounded time, whatever the target does. Idempotent."""
        with anyio.CancelScope(shield=True):
            if not self._closed.is_set():
                self._machine.request_logout(self.reactor.now())
                self._settle()
                with anyio.move_on_after(2 * self.settings.logout_timeout + 1):
                    await self._closed.wait()
            self._close_pump()
            if self._give_up is not None:
                self._give_up.cancel()


@contextlib.asynccontextmanager
async def open_session(
    portals: Sequence[Portal],
    target_name: str | None,
    *,
    chap: Chap | None = None,
    settings: Settings | None = None,
    initiator_name: str | None = None,
    isid: bytes | None = None,
    reactor: Reactor | None = None,
    open_timeout: float = OPEN_TIMEOUT,
) -> AsyncIterator[Session]:
    """Log in and give the session; log out when the block ends.

    ``target_name`` None opens a discovery session (RFC 7143 4.3). ``portals`` are tried in order.
    Without ``isid`` a random one is used, so that this session never ends another one of this host
    (RFC 7143 6.3.5). ``reactor`` is for callers that drive other descriptors with it.

    Raises:
        ConnectError: no portal took a TCP connection.
        LoginError: no portal let us in; the subclass and the text say why.
        ProtocolError: what answers is no iSCSI target, or a broken one.

    Cancellation: the connection is closed; a session that was logged in already is logged out.
    """
    settings = settings or Settings()
    async with contextlib.AsyncExitStack() as stack:
        if reactor is None:
            reactor = await stack.enter_async_context(open_reactor())
        if initiator_name is None:
            initiator_name = await anyio.to_thread.run_sync(host_initiator_name)
        machine = SessionMachine(
            settings,
            initiator_name=check_iscsi_name(initiator_name),
            target_name=target_name,
            isid=isid or make_isid(secrets.token_bytes(3), secrets.randbelow(65536)),
            random_bytes=secrets.token_bytes,
            chap=chap,
            discovery=target_name is None,
        )
        if not portals:
            raise LocalProtocolError("no portal to log in at")
        session = Session(reactor, machine, LoginPlan(portals, chap), settings)
        stack.push_async_callback(session.log_out)
        with anyio.move_on_after(open_timeout) as scope:
            await session.log_in()
        if scope.cancelled_caught:
            raise LoginTimeout(
                f"no login within {open_timeout:g} s at {', '.join(map(str, portals))}"
            )
        session.reactor.spawn(session.keep)
        yield session
