# SPDX-License-Identifier: Apache-2.0
"""Bring a session back after every loss, within what the policy allows.

After a loss: wait as long as the target asked for (Time2Wait), log in again at any portal, let the
owners of the devices pass their barrier (``Session.restorers``), open the queue. A loss or a
refusal during that starts it over, with growing pauses. When ``recovery_timeout`` is over, I/O
fails instead of waiting, and login attempts go on: the session is there again when its target is.

At error recovery level 2 something else comes first: the session's own connection is reinstated at
the same portal, and its tasks go on (session/continuation.py). That needs no barrier, because no
command is repeated. Where the target refuses, or its time to retain the tasks is over, the way is
as above.

INVARIANT: after a loss no command but those of a restorer leaves before every restorer has
returned, unless the session itself goes on. (tests/e2e/test_barrier_on_tgt.py)
"""

from __future__ import annotations

import logging

import anyio

from ..errors import (
    CapacityShrunk,
    ConnectError,
    ConnectionLost,
    Fenced,
    IdentityMismatch,
    IscsiError,
    LoginError,
    LoginRejected,
    LoginTimeout,
    SessionFailed,
)
from .login import LoginPlan, log_in
from .reactor import Timer
from .session import Session

log = logging.getLogger("pyscsi_init.session")

FIRST_DELAY = 0.25
LONGEST_DELAY = 5.0
"""Between login attempts: soon at first, then often enough to notice the target's return."""

BRIEF = 2.0
"""A session that was back for less than this was not really back ..."""
MAX_BRIEF = 8
"""... and after so many of them in a row the next login waits."""

MOST_DOUBLINGS = 16
"""Of that wait: a target may come and go for days, and a float has an end."""


def pause_after(brief: int) -> float:
    """Seconds before the login after so many brief lives of a connection in a row, however many."""
    if brief <= MAX_BRIEF:
        return 0.0
    return min(FIRST_DELAY * 2.0 ** min(brief - MAX_BRIEF, MOST_DOUBLINGS), LONGEST_DELAY)


MAX_TORN = 3
"""A target that so often does not finish the login of a reinstatement is asked for a session."""


class Seldom:
    """Which of the failed attempts of a long outage is worth a line in a log: each with another
    reason than the one before, and of the same ones the second, fourth, eighth and so on."""

    def __init__(self) -> None:
        self._reason = ""
        self._times = 0

    def is_worth(self, reason: str) -> bool:
        """Count one more attempt, which failed for ``reason``."""
        self._times = self._times + 1 if reason == self._reason else 1
        self._reason = reason
        return self._times & (self._times - 1) == 0


class Keeper:
    """Keeps one session; ``run`` is its task."""

    def __init__(self, session: Session, plan: LoginPlan) -> None:
        self._session = session
        self._plan = plan
        self._wake = anyio.Event()
        self._wait = 0.0
        self._limit: Timer | None = None
        self._scope: anyio.CancelScope | None = None
        self._stopped = False
        self._back_at = float("-inf")
        self._torn = 0
        """Attempts to reinstate the connection that the target took and did not finish."""
        session.lost = self._lost

    def _lost(self, wait: float) -> None:
        self._wait = wait
        self._limit_recovery()
        self._wake.set()

    def _limit_recovery(self) -> None:
        session = self._session
        limit = session.settings.recovery_timeout
        if limit is None or self._limit is not None:
            return

        def give_up() -> None:
            self._limit = None
            if session.recovering:
                session.refuse(
                    SessionFailed(
                        f"the session with {session.target_name} is lost and did not come back "
                        f"within {limit:g} s ({session.last_error})"
                    )
                )

        if limit <= 0:
            give_up()
        else:
            self._limit = session.reactor.call_at(session.reactor.now() + limit, give_up)

    def stop(self) -> None:
        """The session is to be closed: no login attempt after this, and nothing stays behind."""
        self._stopped = True
        self._session.lost = None
        self._cancel_limit()
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """Until the session is closed or fails for good."""
        with anyio.CancelScope() as self._scope:
            if not self._stopped:
                await self._keep()

    async def _keep(self) -> None:
        session = self._session
        brief = 0
        while True:
            await self._wake.wait()
            # A target that dies again and again as soon as it is back is given time.
            brief = brief + 1 if session.reactor.now() - self._back_at < BRIEF else 0
            await self._pause(pause_after(brief))
            delay = FIRST_DELAY
            told = Seldom()
            while session.failed is None:
                # A loss that is told during the attempt is answered by this very loop.
                self._wake = anyio.Event()
                try:
                    await self._attempt()
                except (IdentityMismatch, CapacityShrunk, Fenced) as error:
                    session.fail(error)
                except IscsiError as error:
                    session.last_error = error
                    session.drop(str(error))
                    if told.is_worth(str(error)):
                        log.info("session with %s is not back yet: %s", session.target_name, error)
                    await self._pause(delay)
                    delay = min(delay * 2, LONGEST_DELAY)
                else:
                    break
            if session.failed is not None:
                return

    async def _pause(self, seconds: float) -> None:
        # RFC 7143 7.5: what the target asked for holds, also where it asked during an attempt.
        wait, self._wait = self._wait, 0.0
        await anyio.sleep(max(wait, seconds))

    def _cancel_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    async def _attempt(self) -> None:
        session = self._session
        if not session.connected:
            if session.continuing:
                await self._reinstate()
            else:
                await log_in(session, self._plan)
        if not session.recovering:
            self._is_back("goes on")
            return
        if session.continuing:
            raise ConnectionLost("the session was lost again as soon as it went on")
        for restorer in list(session.restorers):
            await restorer()
        if not session.connected:
            raise ConnectionLost("the session was lost again while it was restored")
        self._is_back("is back")
        session.resume()

    def _is_back(self, how: str) -> None:
        session = self._session
        self._cancel_limit()
        session.statistics.recoveries += 1
        log.info("session with %s %s at %s", session.target_name, how, session.portal)
        self._back_at = session.reactor.now()
        self._torn = 0

    async def _reinstate(self) -> None:
        """Log in for the connection that died, where it was; it may turn out to be a new session,
        if the target's time to keep the tasks has run out.

        Raises:
            IscsiError: not now; the next attempt asks for the same again, or for a new session.
        """
        session = self._session
        assert session.portal is not None  # noqa: S101  (for mypy: it was logged in there)
        outcome = await session.log_in_at(session.portal, self._plan.chap)
        error = outcome.error
        if error is not None:
            session.statistics.login_failures += 1
            self._torn += not isinstance(error, ConnectError)
            if self._torn >= MAX_TORN or not _may_pass(error):
                self._torn = 0
                session.abandon(error)
            raise error


def _may_pass(error: IscsiError) -> bool:
    """Whether the same login may succeed a moment later: the network, or a target that is busy. A
    refusal says that the session is gone (RFC 7143 11.13.5, 020Ah) or may not be continued. Targets
    exist that count the connection that they are just logging out for it (0206h)."""
    if isinstance(error, LoginRejected):
        return error.status_class == 3 or (error.status_class, error.status_detail) == (2, 6)
    return isinstance(error, (ConnectError, LoginTimeout)) or type(error) is LoginError
