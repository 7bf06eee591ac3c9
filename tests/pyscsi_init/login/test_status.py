# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.13.5 Status-Class and Status-Detail."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    LoginRedirected,
    LoginRejected,
    ProtocolError,
    TargetNotFound,
    TargetRemoved,
    TargetUnavailable,
)
from pyscsi_init.login.status import STATUS, redirection, rejection

CODES = [*STATUS, (2, 0x0C), (2, 0xFF), (3, 3), (3, 0xFF), (4, 0x99), (0xFF, 0)]


@pytest.mark.parametrize("code", CODES, ids=lambda code: f"{code[0]:02x}{code[1]:02x}")
def test_login_021_every_code_is_a_typed_error(code: tuple[int, int]) -> None:
    error = rejection(*code, target="target T")
    expected = {
        (2, 1): AuthenticationFailed,
        (2, 2): AuthorizationFailed,
        (2, 3): TargetNotFound,
        (2, 4): TargetRemoved,
    }.get(code, TargetUnavailable if code[0] == 3 else LoginRejected)
    assert type(error) is expected
    assert (error.status_class, error.status_detail) == code
    assert f"{code[0]:02x}{code[1]:02x}h" in str(error)
    assert "target T" in str(error)


def test_login_021_the_table_is_that_of_the_rfc() -> None:
    assert set(STATUS) == {(2, detail) for detail in range(0x0C)} | {(3, 0), (3, 1), (3, 2)}
    assert len({row.meaning for row in STATUS.values()}) == len(STATUS)
    assert all(row.remedy for row in STATUS.values())


def test_sec_019_0201_says_which_side_and_why() -> None:
    assert "give --chap-user and a secret" in str(rejection(2, 1, target="T"))
    early = str(rejection(2, 1, target="T", chap_user="joe"))
    assert "algorithms" in early
    late = str(rejection(2, 1, target="T", chap_user="joe", response_sent=True, chap_algorithm=5))
    assert "our own authentication failed" in late
    assert "'joe'" in late
    assert "algorithm 5 alone" not in late
    assert "mutual" not in late
    seven = rejection(2, 1, target="T", chap_user="joe", response_sent=True, chap_algorithm=7)
    assert "algorithm 5 alone" in str(seven)
    mutual = rejection(2, 1, target="T", chap_user="joe", response_sent=True, mutual=True)
    assert "mutual CHAP" in str(mutual)
    assert "algorithms" in str(rejection(2, 0, target="T", chap_user="joe"))


def test_0203_names_discover() -> None:
    assert "pyscsi-init discover" in str(rejection(2, 3, target="T"))


@pytest.mark.parametrize(("detail", "permanent"), [(0, False), (1, False), (2, True), (9, False)])
def test_login_024_details_of_a_redirect(detail: int, permanent: bool) -> None:
    error = redirection(detail, target="T", addresses=("10.0.0.1:3260", "[::1]:3260,1"))
    assert isinstance(error, LoginRedirected)
    assert error.permanent is permanent
    assert error.addresses == ("10.0.0.1:3260", "[::1]:3260,1")
    assert f"01{detail:02x}h" in str(error)


def test_login_024_redirect_without_an_address() -> None:
    assert isinstance(redirection(1, target="T", addresses=()), ProtocolError)
