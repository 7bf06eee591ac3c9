# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.13.5: a login that the target refuses or sends elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyscsi_init.errors import (
    LoginRedirected,
    LoginRejected,
    ProtocolError,
    TargetNotFound,
    TargetUnavailable,
)

from .conftest import Script


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ((2, 3), TargetNotFound),
        ((3, 1), TargetUnavailable),
        ((2, 0xB), LoginRejected),
        ((4, 0x99), LoginRejected),
    ],
)
@pytest.mark.parametrize("junk", [{}, {"transit": True, "current_stage": 1, "next_stage": 3}])
def test_login_021_status_before_all_else(
    script: type[Script], code: tuple[int, int], error: type[Exception], junk: dict[str, Any]
) -> None:
    talk = script()
    with pytest.raises(error):
        talk.answer(b"no text", status_class=code[0], status_detail=code[1], **junk)
    assert talk.machine.requests() == []
    assert not talk.machine.finished


@pytest.mark.parametrize(
    ("data", "addresses"),
    [
        (b"TargetAddress=127.0.0.1:3261\0", ("127.0.0.1:3261",)),
        (b"TargetAddress=[::1]:3260\0", ("[::1]:3260",)),
        (b"TargetAddress=storage.example\0", ("storage.example",)),
        (b"TargetAddress=10.0.0.1:3260,1\0", ("10.0.0.1:3260,1",)),
        (b"TargetAddress=a\0TargetAddress=b\0", ("a", "b")),
        (b"TargetName=iqn.other\0TargetAddress=a\0TargetAddress=\0", ("a",)),
    ],
)
def test_login_022_redirect_in_the_first_answer(
    script: type[Script], data: bytes, addresses: tuple[str, ...]
) -> None:
    with pytest.raises(LoginRedirected) as caught:
        script().answer(data, status_class=1, status_detail=1)
    assert caught.value.addresses == addresses
    assert not caught.value.permanent


def test_login_022_redirect_in_the_operational_stage(operational: Callable[..., Script]) -> None:
    with pytest.raises(LoginRedirected) as caught:
        operational().answer("TargetAddress=10.0.0.2:3260", status_class=1, status_detail=2)
    assert caught.value.permanent


def test_login_024_redirect_to_nowhere(script: type[Script]) -> None:
    for data in (b"", b"TargetAlias=x\0", b"TargetAddress=x"):
        with pytest.raises(ProtocolError):
            script().answer(data, status_class=1, status_detail=1)
