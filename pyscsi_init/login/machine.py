# SPDX-License-Identifier: Apache-2.0
"""The login phase of one connection, from the first Login Request to full feature phase.

Theory of operation. One request is outstanding at a time: ``requests()`` gives it, ``receive()``
takes the answer and makes the next. A text of ours that is too long goes out in parts with the C
bit; a text of the target is joined in the same way, and only a whole text is looked at. Its pairs
go to the negotiation or to CHAP; what they want answered goes into the next request. The stages
and their transitions are tables in stages.py, keys are rows in keys.py, refusals are rows in
status.py. A machine serves one login attempt: another attempt starts from new objects, so that
nothing of a failed negotiation stays in force (RFC 7143 6.2, 7.12).

It has no clock (the transport bounds the time), draws no random numbers, and does not number PDUs
by StatSN: that is the connection's.

INVARIANT: receive() raises only ProtocolError and LoginError (test: test_machine_hypothesis.py).
INVARIANT: no key leaves twice, and C=1 never with T=1 (same test).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import IscsiError, LocalProtocolError, ProtocolError
from ..pdu import LoginRequest, LoginResponse, Stage, StatusClass
from ..secret import Chap
from ..settings import Settings
from .chap import CHAP_KEYS
from .keys import KEYS, Result
from .negotiation import Negotiation
from .parameters import Parameters, negotiated_parameters, operational_keys, own_values
from .security import AUTH_METHOD, SecurityNegotiation
from .stages import REQUESTED, START_STAGES, check_stage_key, check_transition
from .status import redirection, rejection
from .text import (
    LOGIN_DATA_SEGMENT_LENGTH,
    LOGIN_TEXT_LIMIT,
    NOT_UNDERSTOOD,
    Pair,
    TextAssembler,
    decode_pairs,
    encode_pairs,
    split_text,
)

VERSION = 0x00
"""The only iSCSI version there is (RFC 7143 11.12.4)."""

MAX_EXCHANGES = 128
"""Most requests in one login phase. An honest login takes three to eight; one that arrives in many
small parts may take dozens."""

MAX_IDLE_EXCHANGES = 16
"""Most answers in a row that neither say anything nor let us go on. RFC 7143 6.3.3 has us ask
again; targets that take half a dozen rounds are known from conformance suites."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginResult:
    """What a finished login phase leaves to the session."""

    parameters: Parameters
    tsih: int
    response: LoginResponse = field(repr=False)
    """The final response: its StatSN and command window are where full feature phase begins."""


class LoginMachine:
    """One login attempt, without I/O.

    ``tsih`` is 0 for a new session; another value adds or reinstates a connection, and then
    ``leading_parameters`` are those of the session. ``first_stage`` and ``propose_auth_method``
    choose the ways to begin that RFC 7143 6.3.1 leaves open: straight in the operational stage, and
    a security stage in which the target names the method.

    Raises:
        SecretError, ConfigurationError: credentials that cannot be used (see chap.py).
        LocalProtocolError: arguments that contradict each other.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        initiator_name: str,
        target_name: str | None,
        discovery: bool = False,
        chap: Chap | None = None,
        isid: bytes,
        tsih: int = 0,
        cid: int = 0,
        cmd_sn: int = 0,
        initiator_task_tag: int = 0,
        random_bytes: Callable[[int], bytes],
        initiator_alias: str = "",
        node_architecture: str = "",
        first_stage: Stage = Stage.SECURITY_NEGOTIATION,
        propose_auth_method: bool = True,
        task_reporting: Sequence[str] | None = None,
        protocol_level: int | None = None,
        leading_parameters: Parameters | None = None,
    ) -> None:
        if target_name is None and not discovery:
            raise LocalProtocolError("a normal session needs a target name (RFC 7143 6.3)")
        if len(isid) != 6:
            raise LocalProtocolError("an ISID has 6 bytes (RFC 7143 11.12.5)")
        if first_stage not in START_STAGES or (
            chap is not None and first_stage is not Stage.SECURITY_NEGOTIATION
        ):
            raise LocalProtocolError(f"a login cannot begin in stage {first_stage.name} like this")
        if (tsih != 0) != (leading_parameters is not None):
            raise LocalProtocolError("a TSIH and the session's parameters go together")
        if len(node_architecture.encode()) > 255:
            raise LocalProtocolError("X#NodeArchitecture has at most 255 bytes (RFC 7143 13.26)")
        self._discovery = discovery
        self._isid, self._tsih, self._cid, self._cmd_sn = bytes(isid), tsih, cid, cmd_sn
        self._initiator_task_tag = initiator_task_tag
        self._leading_parameters = leading_parameters
        self._target = f"target {target_name}" if target_name else "the discovery portal"
        own = own_values(
            settings,
            discovery=discovery,
            task_reporting=task_reporting,
            protocol_level=protocol_level,
        )
        own[AUTH_METHOD] = SecurityNegotiation.method(chap)
        self._negotiation = Negotiation(own, discovery=discovery, leading=tsih == 0)
        self._security = SecurityNegotiation(chap, self._negotiation, random_bytes)
        self._node_architecture = node_architecture

        self._stage = first_stage
        self._assembler = TextAssembler(LOGIN_TEXT_LIMIT)
        self._parts: deque[bytes] = deque()
        self._transit = False
        self._next: LoginRequest | None = None
        self._outstanding: LoginRequest | None = None
        self._exchanges = 0
        self._idle = 0
        self._chap_seen: set[str] = set()
        self._result: LoginResult | None = None

        pairs = self._opening_keys(initiator_name, target_name, initiator_alias)
        if first_stage is Stage.SECURITY_NEGOTIATION:
            if propose_auth_method:
                pairs.append(self._negotiation.offer(AUTH_METHOD))
        else:
            pairs += self._operational_offers()
        self._send(pairs, transit=chap is None)

    @property
    def stage(self) -> Stage:
        """The stage that the login phase is in."""
        return self._stage

    @property
    def finished(self) -> bool:
        """True from the final response on."""
        return self._result is not None

    @property
    def result(self) -> LoginResult:
        """The outcome, once finished."""
        if self._result is None:
            raise LocalProtocolError("the login phase is not over")
        return self._result

    @property
    def chap_algorithm_chosen(self) -> int | None:
        """The CHAP_A that the target chose; None before that, or without CHAP.

        With 7 here and a rejection with status 0201 or 0200, one more attempt with 5 alone
        is worth it (tgt means SHA1 by 7, and ends with 0200 when a SHA-256 response comes).
        """
        return self._security.chap_algorithm

    def requests(self) -> list[LoginRequest]:
        """What to send now: one request, or none while an answer is awaited or after the end."""
        if self._next is None:
            return []
        request, self._next = self._next, None
        self._outstanding = request
        return [request]

    def receive(self, response: LoginResponse) -> None:
        """Take a Login Response; then ask ``finished`` and ``requests()``.

        After an error the attempt is over: close the TCP connection, send nothing more.

        Raises:
            LoginError: the target refuses or redirects, or an answer is not acceptable.
            ProtocolError: the response breaks RFC 7143.
        """
        request, self._outstanding = self._outstanding, None
        if request is None:
            raise ProtocolError(
                "a Login Response came that no request had asked for (RFC 7143 6.3)"
            )
        try:
            self._receive(request, response)
        except IscsiError:
            self._security.forget()
            raise

    def _receive(self, request: LoginRequest, response: LoginResponse) -> None:
        # Status-Class first: with another one than 0 the T, CSG and NSG fields mean nothing
        # (RFC 7143 11.13.5), and targets do leave junk in them.
        if response.status_class != StatusClass.SUCCESS:
            raise self._refusal(response)
        self._check_header(request, response)
        if self._parts:
            # RFC 7143 6.2: a request with C=1 is answered "with no data segment".
            if len(response.data) or response.continue_:
                raise ProtocolError(
                    "the target answers a text before it has all of it (RFC 7143 6.2)"
                )
            self._send_part()
            return
        text = self._assembler.feed(response.data, more=bool(response.continue_))
        if text is None:
            self._send([], transit=False)
            return
        answers = self._take(decode_pairs(text), final=bool(response.transit))
        if response.transit:
            self._enter(
                check_transition(self._stage, request.next_stage, response.next_stage), response
            )
            return
        self._idle = 0 if text or answers else self._idle + 1
        if self._idle > MAX_IDLE_EXCHANGES:
            raise ProtocolError(
                f"the target stays in login stage {self._stage.value} and says nothing "
                "(RFC 7143 6.3.3)"
            )
        # RFC 7143 6.3.3: ask again with T=1, even in an empty request, until the target agrees.
        self._send(
            answers,
            transit=self._stage is not Stage.SECURITY_NEGOTIATION or self._security.may_transit,
        )

    def _refusal(self, response: LoginResponse) -> IscsiError:
        status_class, detail = response.status_class, response.status_detail
        if status_class == StatusClass.REDIRECTION:
            # Another TargetName beside the address is not the standard's, and not followed.
            pairs = decode_pairs(response.data)
            addresses = tuple(value for name, value in pairs if name == "TargetAddress" and value)
            return redirection(detail, target=self._target, addresses=addresses)
        return rejection(
            status_class,
            detail,
            target=self._target,
            chap_user=self._security.chap_user,
            chap_algorithm=self._security.chap_algorithm,
            mutual=self._security.mutual,
            response_sent=self._security.response_sent,
        )

    def _check_header(self, request: LoginRequest, response: LoginResponse) -> None:
        def require(condition: bool, what: str) -> None:
            if not condition:
                raise ProtocolError(f"{self._target}: {what}")

        require(
            response.initiator_task_tag == self._initiator_task_tag,
            "the Login Response has another Initiator Task Tag (RFC 7143 11.12.8)",
        )
        require(
            response.version_active == VERSION,
            f"it speaks iSCSI version {response.version_active} only (RFC 7143 11.13.2)",
        )
        require(
            response.current_stage == self._stage.value,
            f"the Login Response is of stage {response.current_stage}, not of {self._stage.value} "
            "(RFC 7143 6.3)",
        )
        require(
            not (response.continue_ and response.transit),
            "the Login Response has C and T both set (RFC 7143 11.13.7)",
        )
        require(
            bool(request.transit) or not response.transit,
            "it leaves the login stage without being asked (RFC 7143 11.13.6)",
        )
        require(
            len(response.data) <= LOGIN_DATA_SEGMENT_LENGTH,
            f"the Login Response has more than {LOGIN_DATA_SEGMENT_LENGTH} bytes (RFC 7143 6.3)",
        )

    def _take(self, pairs: list[Pair], *, final: bool) -> list[Pair]:
        """Take the pairs of one whole text; what to answer."""
        chap_keys: dict[str, str] = {}
        answers: list[Pair] = []
        for name, value in pairs:
            check_stage_key(self._stage, name)
            if name in CHAP_KEYS:
                if name in self._chap_seen:
                    raise ProtocolError(f"the target sent {name} twice (RFC 7143 6.3)")
                self._chap_seen.add(name)
                chap_keys[name] = value
                continue
            if name == AUTH_METHOD:
                self._security.check_method(value)
            answer = self._negotiation.receive(name, value)
            if answer is None:
                continue
            if final and not _may_stay_unanswered(name, answer[1]):
                # RFC 7143 11.13.6: T=1 "MUST NOT contain key=value pairs that may require
                # additional answers".
                raise ProtocolError(
                    f"the target proposes {name} and ends the stage in one response "
                    "(RFC 7143 11.13.6)"
                )
            answers.append(answer)
        if self._stage is Stage.SECURITY_NEGOTIATION:
            answers += self._security.receive(chap_keys)
        return answers

    def _enter(self, stage: Stage, response: LoginResponse) -> None:
        if self._stage is Stage.SECURITY_NEGOTIATION:
            self._security.check_complete()
        self._stage = stage
        self._idle = 0
        if stage is Stage.LOGIN_OPERATIONAL_NEGOTIATION:
            self._send(self._operational_offers(), transit=True)
            return
        # RFC 7143 11.13.3: the final response of a new session carries the TSIH; before it the
        # field means nothing, and for an existing session it is the one we sent.
        if self._tsih == 0 and response.tsih == 0:
            raise ProtocolError(f"{self._target}: the session got no TSIH (RFC 7143 11.13.3)")
        if self._tsih and response.tsih not in (0, self._tsih):
            # Another session: what is in flight must not go on there without the barrier.
            raise ProtocolError(
                f"{self._target}: asked for session {self._tsih}, got {response.tsih} (11.13.3)"
            )
        parameters = negotiated_parameters(self._negotiation, self._leading_parameters)
        self._result = LoginResult(
            parameters=parameters, tsih=self._tsih or response.tsih, response=response
        )

    def _opening_keys(
        self, initiator_name: str, target_name: str | None, initiator_alias: str
    ) -> list[Pair]:
        """The keys that stand once, in the first request (RFC 7143 6.3)."""
        send = self._negotiation.send
        pairs = [send("InitiatorName", initiator_name)]
        if initiator_alias:
            pairs.append(send("InitiatorAlias", initiator_alias))
        if target_name is not None:
            pairs.append(send("TargetName", target_name))
        if self._tsih == 0:
            pairs.append(send("SessionType", "Discovery" if self._discovery else "Normal"))
        return pairs

    def _operational_offers(self) -> list[Pair]:
        keys = operational_keys(discovery=self._discovery, leading=self._tsih == 0)
        pairs = [
            self._negotiation.offer(name) for name in keys if not self._negotiation.was_sent(name)
        ]
        if self._node_architecture and self._tsih == 0:
            pairs.append(self._negotiation.send("X#NodeArchitecture", self._node_architecture))
        return pairs

    def _send(self, pairs: list[Pair], *, transit: bool) -> None:
        self._parts.extend(split_text(encode_pairs(pairs), LOGIN_DATA_SEGMENT_LENGTH))
        self._transit = transit
        self._send_part()

    def _send_part(self) -> None:
        self._exchanges += 1
        if self._exchanges > MAX_EXCHANGES:
            raise ProtocolError(f"{self._target}: the login phase does not come to an end")
        data = self._parts.popleft()
        more = bool(self._parts)
        transit = self._transit and not more  # RFC 7143 11.12.2: C=1 "MUST have the T bit set to 0"
        self._next = LoginRequest(
            transit=transit,
            continue_=more,
            current_stage=self._stage.value,
            next_stage=REQUESTED[self._stage].value if transit else 0,
            version_max=VERSION,
            version_min=VERSION,
            isid=self._isid,
            tsih=self._tsih,
            cid=self._cid,
            cmd_sn=self._cmd_sn,
            initiator_task_tag=self._initiator_task_tag,
            data=data,
        )


def _may_stay_unanswered(name: str, answer: str) -> bool:
    row = KEYS.get(name)
    # Private declarations, and markers that nobody has used since RFC 7143: no session differs by
    # what we would say to them.
    return answer == NOT_UNDERSTOOD if row is None else row.result is Result.OBSOLETE
