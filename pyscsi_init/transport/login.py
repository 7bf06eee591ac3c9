# SPDX-License-Identifier: Apache-2.0
"""Which portal to log in at: several in order, redirects, and one second try with CHAP's MD5.

What a failure at one portal means for the rest of the login is decided in ``LoginPlan.next_step``:
synchronous, without I/O, so it is tested as a table. ``log_in`` follows it.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import (
    AuthenticationFailed,
    ConnectError,
    InvalidUrl,
    IscsiError,
    LoginError,
    LoginRedirected,
    LoginRejected,
    ProtocolError,
    TargetAuthenticationFailed,
)
from ..names import Portal
from ..secret import Chap

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger("pyscsi_init.session")

MAX_REDIRECTS = 5
"""RFC 7143 sets no limit; a loop between two portals must end."""

MD5_ONLY = (5,)


class Step(enum.Enum):
    """What to do after a failed attempt."""

    NEXT_PORTAL = enum.auto()
    FOLLOW = enum.auto()
    AGAIN_WITH_MD5 = enum.auto()
    GIVE_UP = enum.auto()


class LoginPlan:
    """The portals of one target and what was learnt of them.

    A temporary redirect holds for one login; a permanent one replaces the portal it came from
    (RFC 7143 11.13.5).
    """

    def __init__(self, portals: Sequence[Portal], chap: Chap | None) -> None:
        self.portals = list(portals)
        self.chap = chap
        self.redirects = 0
        self.target: Portal | None = None
        """Where a redirect that is to be followed leads."""

    def start(self) -> None:
        """The login at a portal of ours begins."""
        self.redirects = 0
        self.target = None

    def found_at(self, portal: Portal, session: Session) -> None:
        """The login succeeded: take over the portal group tag that the target itself gives, and
        tell where another one was known (RFC 7143 6.3.1, 13.9)."""
        tag = session.parameters.target_portal_group_tag
        if tag is None or portal.tag in (None, tag):
            return
        log.warning(
            "portal %s belongs to portal group %d of %s, not to %d as was known before",
            portal,
            tag,
            session.target_name or "its target",
            portal.tag,
        )
        session.portal = replace(portal, tag=tag)
        if portal in self.portals:
            self.portals[self.portals.index(portal)] = session.portal

    def next_step(self, portal: Portal, error: IscsiError, algorithm: int | None) -> Step:
        """What follows from ``error`` at ``portal``; ``algorithm`` is the CHAP_A that was
        chosen."""
        if isinstance(error, LoginRedirected):
            self.redirects += 1
            self.target = _first_portal(error.addresses)
            if self.target is None or self.redirects > MAX_REDIRECTS:
                return Step.NEXT_PORTAL
            if error.permanent and portal in self.portals:
                self.portals[self.portals.index(portal)] = self.target
            return Step.FOLLOW
        if self._other_algorithm_may_help(error, algorithm):
            assert self.chap is not None  # noqa: S101  (for mypy: asked above)
            self.chap = replace(self.chap, algorithms=MD5_ONLY)
            return Step.AGAIN_WITH_MD5
        if isinstance(error, AuthenticationFailed):
            return Step.GIVE_UP
        if isinstance(error, TargetAuthenticationFailed):
            return Step.GIVE_UP
        if isinstance(error, (ConnectError, LoginError, ProtocolError)):
            # A portal whose controller is broken must not keep us from the other one.
            return Step.NEXT_PORTAL
        return Step.GIVE_UP

    def _other_algorithm_may_help(self, error: IscsiError, algorithm: int | None) -> bool:
        """Targets exist that take 7 and mean SHA1 by it, and some that refuse any list; they say so
        with 0201, or with a mere 0200 after they chose."""
        if self.chap is None or self.chap.algorithms == MD5_ONLY or 5 not in self.chap.algorithms:
            return False
        if isinstance(error, AuthenticationFailed):
            return algorithm != 5
        return (
            isinstance(error, LoginRejected)
            and (error.status_class, error.status_detail) == (2, 0)
            and algorithm not in (None, 5)
        )


async def log_in(session: Session, plan: LoginPlan) -> None:
    """One login, over all portals of the plan.

    Raises:
        IscsiError: what the portal said that decided it, or all of what they said.
    """
    errors: list[IscsiError] = []
    for first in list(plan.portals):
        plan.start()
        portal: Portal | None = first
        while portal is not None:
            outcome = await session.log_in_at(portal, plan.chap)
            error = outcome.error
            if error is None:
                plan.found_at(portal, session)
                return
            session.statistics.login_failures += 1
            step = plan.next_step(portal, error, outcome.chap_algorithm)
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


def _first_portal(addresses: Sequence[str]) -> Portal | None:
    for address in addresses:
        try:
            return Portal.parse(address)
        except InvalidUrl:
            continue
    return None


def combined(errors: Sequence[IscsiError]) -> IscsiError:
    """One error for a login that failed at every portal: the only one, or all in one sentence."""
    if len(errors) == 1:
        return errors[0]
    # The most telling one decides the class: a portal that answered knows more than a silent one.
    kinds = ((LoginError,), (ProtocolError,), (IscsiError,))
    telling = next(error for kind in kinds for error in errors if isinstance(error, kind))
    texts = "; ".join(dict.fromkeys(str(error) for error in errors))
    message = f"no portal of {len(errors)} let us in: {texts}"
    if type(telling) is ConnectError:
        return ConnectError(message, portal=telling.portal, reason=telling.reason)
    telling.args = (message,)
    return telling
