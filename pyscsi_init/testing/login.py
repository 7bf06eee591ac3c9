# SPDX-License-Identifier: Apache-2.0
"""The target's half of the login phase of one connection (RFC 7143 6.3 and 11.12, 11.13).

:class:`LoginExchange` takes Login Requests and gives Login Responses. It decides on names, stages,
redirects and authentication, and lets negotiation.py and chap.py speak for their keys. It touches
no socket and no session: who it was that logged in is read from its attributes afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ProtocolError
from ..login.text import (
    LOGIN_TEXT_LIMIT,
    TextAssembler,
    decode_pairs,
    encode_pairs,
    parse_list,
)
from ..pdu import LoginRequest, LoginResponse
from ..serial import serial_add
from .chap import ChapExchange, ChapFailure
from .negotiation import Negotiation
from .settings import Redirect, TargetChap, TargetSettings
from .target import Target

if TYPE_CHECKING:
    from .session import Session

SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3

INITIATOR_ERROR = (2, 0x00)
AUTHENTICATION_FAILURE = (2, 0x01)
AUTHORIZATION_FAILURE = (2, 0x02)
NOT_FOUND = (2, 0x03)
UNSUPPORTED_VERSION = (2, 0x05)
TOO_MANY_CONNECTIONS = (2, 0x06)
MISSING_PARAMETER = (2, 0x07)
SESSION_TYPE_NOT_SUPPORTED = (2, 0x09)
SESSION_DOES_NOT_EXIST = (2, 0x0A)
INVALID_DURING_LOGIN = (2, 0x0B)


class Refused(Exception):
    """The login ends with this status (RFC 7143 11.13.5)."""

    def __init__(self, status: tuple[int, int], text: str = "", address: str = "") -> None:
        self.status = status
        self.address = address
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Place:
    """What a login needs to know of the server and of the portal that it came in by."""

    find_target: Callable[[str], Target | None]
    redirect: Callable[[Target], Redirect | None]
    find_session: Callable[[Target, str, bytes, int], Session | None]
    new_tsih: Callable[[], int]
    target_portal_group_tag: int
    discovery_chap: tuple[TargetChap, ...]
    discovery_settings: TargetSettings


class LoginExchange:
    """One login. ``done`` says that full feature phase begins, ``failed`` that it will not."""

    def __init__(
        self, place: Place, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._place = place
        self._random_bytes = random_bytes
        self._text = TextAssembler(LOGIN_TEXT_LIMIT)
        self._first: LoginRequest | None = None
        self._stage = -1
        self._negotiation: Negotiation | None = None
        self._chap: ChapExchange | None = None
        self._accounts: tuple[TargetChap, ...] = ()
        self._asked_for_chap = False
        self.stat_sn = 0
        self.initiator_name = ""
        self.discovery = False
        self.target: Target | None = None
        self.settings = place.discovery_settings
        self.isid = b""
        self.cid = 0
        self.cmd_sn = 0
        self.tsih = 0
        self.done = False
        self.failed: tuple[int, int] | None = None
        self.reinstates: Session | None = None
        """The session whose connection this one takes the place of (RFC 7143 6.3.4)."""
        self.exp_stat_sn = 0
        """What the first request acknowledged of that connection."""

    @property
    def negotiation(self) -> Negotiation:
        """The operational keys; only after the first request was understood."""
        if self._negotiation is None:
            raise ProtocolError("the login has not told who it is")
        return self._negotiation

    def receive(self, request: LoginRequest) -> LoginResponse:
        """Answer one Login Request."""
        response = LoginResponse(
            current_stage=request.current_stage,
            isid=request.isid,
            tsih=request.tsih,
            initiator_task_tag=request.initiator_task_tag,
        )
        try:
            self._step(request, response)
        except Refused as refused:
            self._refuse(response, refused)
        except ChapFailure:
            self._refuse(response, Refused(AUTHENTICATION_FAILURE))
        except ProtocolError:
            self._refuse(response, Refused(INITIATOR_ERROR))
        response.stat_sn = self.stat_sn
        if self.reinstates is None:
            response.exp_cmd_sn = request.cmd_sn
            response.max_cmd_sn = serial_add(request.cmd_sn, self.settings.command_window - 1)
        else:
            response.exp_cmd_sn = self.reinstates.exp_cmd_sn
            response.max_cmd_sn = self.reinstates.max_cmd_sn
        self.stat_sn = serial_add(self.stat_sn, 1)
        return response

    def _refuse(self, response: LoginResponse, refused: Refused) -> None:
        self.failed = refused.status
        response.status_class, response.status_detail = refused.status
        response.transit = response.continue_ = False
        response.next_stage = 0
        response.data = (
            encode_pairs([("TargetAddress", refused.address)]) if refused.address else b""
        )

    def _step(self, request: LoginRequest, response: LoginResponse) -> None:
        first = self._first
        if first is None:
            self._first = request
            self.isid, self.cid, self.cmd_sn = request.isid, request.cid, request.cmd_sn
            if request.version_min > 0:
                raise Refused(UNSUPPORTED_VERSION)
        elif (request.isid, request.cid, request.tsih) != (first.isid, first.cid, first.tsih):
            raise Refused(INITIATOR_ERROR)
        if request.current_stage not in (SECURITY, OPERATIONAL) or (
            request.current_stage < self._stage
        ):
            raise Refused(INVALID_DURING_LOGIN)
        self._stage = request.current_stage
        text = self._text.feed(request.data, more=request.continue_)
        if text is None:
            return
        pairs = decode_pairs(text)
        answers = [] if self._negotiation is not None else self._begin(request, dict(pairs))
        wants_to_go_on = request.transit
        if self._stage == SECURITY:
            answers += self._security(pairs)
        else:
            answers += self._operational(pairs)
        if wants_to_go_on and self._may_leave():
            self._leave(request, response)
        response.data = encode_pairs(answers)

    def _begin(self, request: LoginRequest, keys: dict[str, str]) -> list[tuple[str, str]]:
        """The first request: who is it, and what does it want?"""
        self.initiator_name = keys.get("InitiatorName", "")
        if not self.initiator_name:
            raise Refused(MISSING_PARAMETER)
        kind = keys.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise Refused(SESSION_TYPE_NOT_SUPPORTED)
        self.discovery = kind == "Discovery"
        if self.discovery:
            self._accounts = self._place.discovery_chap
            if request.tsih:
                raise Refused(SESSION_DOES_NOT_EXIST)
            self._negotiation = Negotiation(self.settings, discovery=True)
            return []
        if "TargetName" not in keys:
            raise Refused(MISSING_PARAMETER)
        target = self._place.find_target(keys["TargetName"])
        if target is None:
            raise Refused(NOT_FOUND)
        if target.faults.refuse_logins:
            raise Refused(target.faults.refuse_logins.pop(0))
        redirect = self._place.redirect(target)
        if redirect is not None:
            raise Refused((1, 2 if redirect.permanent else 1), address=redirect.address)
        if target.initiators is not None and self.initiator_name not in target.initiators:
            raise Refused(AUTHORIZATION_FAILURE)
        if request.tsih:
            known = self._place.find_session(
                target, self.initiator_name, request.isid, request.tsih
            )
            if known is None:
                raise Refused(SESSION_DOES_NOT_EXIST)
            if known.parameters.error_recovery_level < 2 or known.cid != request.cid:
                raise Refused(TOO_MANY_CONNECTIONS)
            self.reinstates = known
            self.exp_stat_sn = request.exp_stat_sn
        self.target = target
        self.settings = target.settings
        self.stat_sn = target.settings.initial_stat_sn
        self._accounts = target.chap
        self._negotiation = Negotiation(self.settings, discovery=False)
        self._negotiation.leading = self.reinstates is None
        answers = [("TargetPortalGroupTag", str(self._place.target_portal_group_tag))]
        if self.settings.target_alias:
            answers.append(("TargetAlias", self.settings.target_alias))
        return answers

    def _security(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        chap_keys = {key: value for key, value in pairs if key.startswith("CHAP_")}
        rest = [(k, v) for k, v in pairs if k != "AuthMethod" and k not in chap_keys]
        answers = self.negotiation.receive(rest)
        offers = [value for key, value in pairs if key == "AuthMethod"]
        if offers:
            answers += self._authentication_method(offers[0])
        elif self._accounts and self._chap is None:
            # RFC 7143 6.3.2: the target may start the security negotiation
            self._asked_for_chap = True
            return [*answers, ("AuthMethod", "CHAP")]
        if chap_keys:
            if self._chap is None:
                raise Refused(INITIATOR_ERROR)
            answers += self._chap.receive(chap_keys)
        return answers

    def _authentication_method(self, offer: str) -> list[tuple[str, str]]:
        methods = parse_list(offer)
        if self._accounts:
            if "CHAP" not in methods:
                raise Refused(AUTHENTICATION_FAILURE)
            self._chap = ChapExchange(self._accounts, self._random_bytes)
            return [] if self._asked_for_chap else [("AuthMethod", "CHAP")]
        if "None" not in methods:
            raise Refused(AUTHENTICATION_FAILURE)
        return [("AuthMethod", "None")]

    def _operational(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if self._accounts and not (self._chap is not None and self._chap.authenticated):
            raise Refused(AUTHENTICATION_FAILURE)
        answers = self.negotiation.receive([(k, v) for k, v in pairs if k != "AuthMethod"])
        return answers + self.negotiation.offers()

    def _may_leave(self) -> bool:
        if self._stage == SECURITY:
            return not self._accounts or (self._chap is not None and self._chap.authenticated)
        return not self.negotiation.waits_for_answers

    def _leave(self, request: LoginRequest, response: LoginResponse) -> None:
        if request.next_stage not in (OPERATIONAL, FULL_FEATURE) or (
            request.next_stage <= self._stage
        ):
            raise Refused(INVALID_DURING_LOGIN)
        response.transit = True
        response.next_stage = request.next_stage
        self._stage = request.next_stage
        if request.next_stage == FULL_FEATURE:
            if self.reinstates is None:
                self.tsih = self._place.new_tsih()
            else:
                self.tsih = self.reinstates.tsih
            response.tsih = self.tsih
            self.done = True
