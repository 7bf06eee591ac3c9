# SPDX-License-Identifier: Apache-2.0
"""The security negotiation: AuthMethod, and CHAP behind it (RFC 7143 6.3.2, 12.1).

One object holds the policy "this, and nothing weaker": with credentials only CHAP is offered, and
the stage cannot be left before CHAP is done in every direction that was configured; without them
only None is. A refusal of the target becomes an error that says who failed and what to try.

It takes and gives pairs. Which PDU they travel in, and the T bit, are the login machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import NegotiationFailed, ProtocolError, TargetAuthenticationFailed
from ..secret import Chap
from .chap import ChapInitiator, ChapStep
from .negotiation import Negotiation
from .text import NOT_UNDERSTOOD, RESERVED_ANSWERS, Pair, shorten

AUTH_METHOD = "AuthMethod"


class SecurityNegotiation:
    """What was agreed in the security stage, and what is still to do."""

    def __init__(
        self, chap: Chap | None, negotiation: Negotiation, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._negotiation = negotiation
        self._chap = ChapInitiator(chap, random_bytes) if chap is not None else None

    @staticmethod
    def method(chap: Chap | None) -> str:
        """The one value of AuthMethod that we accept."""
        return "None" if chap is None else "CHAP"

    @property
    def chap_algorithm(self) -> int | None:
        """The CHAP_A that the target chose, None before that."""
        return self._chap.algorithm if self._chap is not None else None

    @property
    def chap_user(self) -> str | None:
        """Our CHAP_N, None without CHAP."""
        return self._chap.user if self._chap is not None else None

    @property
    def mutual(self) -> bool:
        """Whether the target has to prove itself too."""
        return self._chap is not None and self._chap.mutual

    @property
    def response_sent(self) -> bool:
        """Whether CHAP_R went out."""
        return self._chap is not None and self._chap.response_sent

    @property
    def may_transit(self) -> bool:
        """Whether our next request may ask to leave the stage."""
        return self._chap is None or self._chap.response_sent

    def check_method(self, value: str) -> None:
        """Judge AuthMethod as the target sent it, before the negotiation takes it.

        Raises:
            NegotiationFailed: the target refuses what we offered.
            ProtocolError: it answers what was not offered.
        """
        own = "CHAP" if self._chap is not None else "None"
        remedy = (
            "the target wants authentication: give --chap-user and a secret (a Chap)"
            if self._chap is None
            else "the target has no CHAP for this initiator: set it up there, or give no CHAP user"
        )
        if not self._negotiation.was_sent(AUTH_METHOD):
            if value not in RESERVED_ANSWERS and own not in value.split(","):
                raise NegotiationFailed(
                    f"the target proposes AuthMethod={shorten(value)}, but only {own} is "
                    f"acceptable here; {remedy}",
                    key=AUTH_METHOD,
                    value=value,
                )
        elif value in RESERVED_ANSWERS and value != NOT_UNDERSTOOD:
            raise NegotiationFailed(
                f"the target refuses AuthMethod={own} ({value}); {remedy}",
                key=AUTH_METHOD,
                value=value,
            )
        elif value not in RESERVED_ANSWERS and value != own:
            raise ProtocolError(
                f"the target answered AuthMethod={shorten(value)} to our AuthMethod={own} "
                f"(RFC 7143 6.2.1); {remedy}"
            )

    def receive(self, chap_keys: Mapping[str, str]) -> list[Pair]:
        """Take the CHAP keys of one whole answer; the keys to send next.

        Raises:
            ProtocolError: keys that do not belong to this step.
            TargetAuthenticationFailed: mutual CHAP failed.
        """
        if self._chap is None:
            if chap_keys:
                raise ProtocolError(
                    "the target began CHAP, which was not negotiated (RFC 7143 12.1.3)"
                )
            return []
        if self._chap.step is not ChapStep.START:
            return self._chap.receive(chap_keys)
        if self._negotiation.received(AUTH_METHOD) is None:
            raise ProtocolError("the target did not answer AuthMethod=CHAP (RFC 7143 12.1)")
        if chap_keys:
            # RFC 7143 12.1: "the first step is always done by the initiator".
            raise ProtocolError("the target began CHAP before us (RFC 7143 12.1)")
        return self._chap.first_keys()

    def check_complete(self) -> None:
        """Let the stage end only when every authentication that was configured is done.

        Raises:
            ProtocolError: the target skips the authentication of ourselves.
            TargetAuthenticationFailed: it skips its own.
        """
        if self._chap is None or self._chap.step is ChapStep.DONE:
            return
        if self._chap.step is ChapStep.RESPONSE_SENT:
            raise TargetAuthenticationFailed("the target skipped its own authentication")
        raise ProtocolError(
            "the target left the security stage without authentication, which is required here "
            "(RFC 7143 12.1.3)"
        )

    def forget(self) -> None:
        """The login is over: its challenge is no longer pending."""
        if self._chap is not None:
            self._chap.forget()
