# SPDX-License-Identifier: Apache-2.0
"""A scripted target for the login machine: one line of script for each round.

``Script.answer()`` holds every request against the rules that bind all of them (one outstanding,
one tag, no key twice, C and T never both), so each test of this folder checks those too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyscsi_init.login import LoginMachine
from pyscsi_init.login.text import decode_pairs, encode_pairs
from pyscsi_init.pdu import LoginRequest, LoginResponse
from pyscsi_init.secret import Chap, Secret
from pyscsi_init.settings import Settings

INITIATOR = "iqn.2001-04.com.example:host"
TARGET = "iqn.2001-04.com.example:disk"
SECRET = "secret-96-bits-min"
MUTUAL_SECRET = "another-96-bits-min"
ISID = bytes.fromhex("800000010002")


def counter_bytes() -> Callable[[int], bytes]:
    """A source of bytes that never gives the same twice, and the same in every run."""
    state = 0

    def draw(length: int) -> bytes:
        nonlocal state
        state += 1
        return hashlib.shake_256(state.to_bytes(8, "big")).digest(length)

    return draw


class Script:
    """A login machine, and the target's side of the talk."""

    def __init__(self, settings: Settings | None = None, **arguments: Any) -> None:
        arguments.setdefault("target_name", TARGET)
        arguments.setdefault("random_bytes", counter_bytes())
        self.machine = LoginMachine(
            settings or Settings(),
            initiator_name=INITIATOR,
            isid=ISID,
            initiator_task_tag=7,
            cid=3,
            cmd_sn=11,
            **arguments,
        )
        self._tsih = arguments.get("tsih", 0)
        self.sent: list[LoginRequest] = []
        self.keys_sent: list[str] = []
        self._text = b""

    @property
    def last(self) -> LoginRequest:
        return self.sent[-1]

    @property
    def pairs(self) -> dict[str, str]:
        """What the last request says."""
        return dict(decode_pairs(self.last.data))

    def request(self) -> LoginRequest:
        """Take the request that the machine has ready, and hold it against the invariants."""
        (request,) = self.machine.requests()
        assert self.machine.requests() == []
        assert (request.isid, request.tsih, request.cid) == (ISID, self._tsih, 3)
        assert (request.version_max, request.version_min) == (0, 0)
        assert (request.initiator_task_tag, request.cmd_sn) == (7, 11)
        assert not (request.continue_ and request.transit)
        assert len(request.data) <= 8192
        assert request.encode()[0] == 0x43
        self.sent.append(request)
        self._text += bytes(request.data)
        if not request.continue_:
            keys = [key for key, _ in decode_pairs(self._text)]
            assert not set(keys) & set(self.keys_sent), "a key was sent twice"
            assert len(set(keys)) == len(keys)
            self.keys_sent += keys
            self._text = b""
        return request

    def answer(
        self,
        text: bytes | dict[str, str] | str | Callable[[Script], str] = b"",
        **fields: Any,
    ) -> None:
        """Answer the next request: stage and T as it asks for, unless ``fields`` say otherwise.

        ``text`` is bytes as they stand, pairs, ``"Key=value Key=value"``, or what makes such a
        text once the request is there.
        """
        request = self.request()
        if callable(text):
            text = text(self)
        if isinstance(text, str):
            text = dict(item.split("=", 1) for item in text.split())
        data = encode_pairs(list(text.items())) if isinstance(text, dict) else text
        defaults: dict[str, Any] = {
            "transit": request.transit,
            "current_stage": request.current_stage,
            "initiator_task_tag": request.initiator_task_tag,
            "isid": request.isid,
            "tsih": 0x1234 if request.transit and request.next_stage == 3 else 0xDEAD,
            "data": data,
        }
        fields = defaults | fields
        if fields["transit"]:
            fields.setdefault("next_stage", request.next_stage)
        self.machine.receive(LoginResponse(**fields))

    def security_done(self) -> Script:
        """Leave the security stage as a target without authentication does."""
        self.answer("TargetPortalGroupTag=1 AuthMethod=None")
        return self


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def make_chap() -> Callable[..., Chap]:
    def make(**changes: Any) -> Chap:
        return Chap(**({"user": "joe", "secret": Secret(SECRET)} | changes))

    return make


@pytest.fixture
def operational(script: type[Script]) -> Callable[..., Script]:
    """A script that stands at the first operational request."""

    def make(settings: Settings | None = None, **arguments: Any) -> Script:
        return script(settings, **arguments).security_done()

    return make


@pytest.fixture(autouse=True)
def _no_challenge_left_behind() -> Iterator[None]:
    yield
    from pyscsi_init.login.chap import _PENDING

    _PENDING.clear()
