# SPDX-License-Identifier: Apache-2.0
"""The iscsi:// URL, and that no password survives in it or in an error about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ConfigurationError, InvalidUrl, SecretError
from pyscsi_init.names import Portal
from pyscsi_init.url import IscsiUrl, parse_url

TARGET = "iqn.2001-04.com.example:storage"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (f"iscsi://h/{TARGET}/1", IscsiUrl(None, (Portal("h"),), TARGET, 1)),
        (f"iscsi://h/{TARGET}", IscsiUrl(None, (Portal("h"),), TARGET, None)),
        (f"iscsi://h/{TARGET}/", IscsiUrl(None, (Portal("h"),), TARGET, None)),
        (f" ISCSI://h/{TARGET}/0 ", IscsiUrl(None, (Portal("h"),), TARGET, 0)),
        (f"iscsi://h:3261/{TARGET}/16383", IscsiUrl(None, (Portal("h", 3261),), TARGET, 16383)),
        (f"iscsi://me@h/{TARGET}/1", IscsiUrl("me", (Portal("h"),), TARGET, 1)),
        (
            f"iscsi://me@10.0.0.1,10.0.0.2:3261,[::1]:9/{TARGET}/1",
            IscsiUrl(
                "me", (Portal("10.0.0.1"), Portal("10.0.0.2", 3261), Portal("::1", 9)), TARGET, 1
            ),
        ),
        (
            "iscsi://h/iqn.2004-04.com.QNAP:TS_1/2",
            IscsiUrl(None, (Portal("h"),), "iqn.2004-04.com.QNAP:TS_1", 2),
        ),
        (
            "iscsi://h/iqn.2001-04.com.example%3Aa%2Fb/2",
            IscsiUrl(None, (Portal("h"),), "iqn.2001-04.com.example:a/b", 2),
        ),
        (
            "iscsi://h/iqn.2001-04.com.example:%C3%A9",
            IscsiUrl(None, (Portal("h"),), "iqn.2001-04.com.example:\u00e9", None),
        ),
        (
            "iscsi://h/iqn.2001-04.com.example:a@b/3",
            IscsiUrl(None, (Portal("h"),), "iqn.2001-04.com.example:a@b", 3),
        ),
    ],
)
def test_urls(text: str, url: IscsiUrl) -> None:
    assert parse_url(text) == url
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iscsi:",
        "iscsi://",
        "http://h/x",
        f"h/{TARGET}/1",
        "iscsi://h",
        "iscsi://h/",
        f"iscsi:///{TARGET}/1",
        f"iscsi://,/{TARGET}/1",
        f"iscsi://h,/{TARGET}/1",
        f"iscsi://h,h/{TARGET}/1",
        f"iscsi://h:3260,1/{TARGET}/1",
        f"iscsi://h:x/{TARGET}/1",
        f"iscsi://[::1/{TARGET}/1",
        f"iscsi://@h/{TARGET}/1",
        f"iscsi://a b@h/{TARGET}/1",
        "iscsi://h/disk/1",
        "iscsi://h/iqn.2001-13.com.example/1",
        "iscsi://h/iqn.2001-04.com.example:%ff/1",
        "iscsi://h/iqn.2001-04.com.example:%00/1",
        f"iscsi://h/{TARGET}/x",
        f"iscsi://h/{TARGET}/-1",
        f"iscsi://h/{TARGET}/16384",
        f"iscsi://h/{TARGET}/1/2",
        f"iscsi://h/{TARGET}/\u0661",
        f"iscsi://h/{TARGET}/1?header_digest=crc32c",
        f"iscsi://h/{TARGET}/1#x",
    ],
)
def test_bad_urls(text: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        f"iscsi://me:s3cr3t@h/{TARGET}/1",
        f"iscsi://me%s3cr3t@h/{TARGET}/1",
        f"iscsi://me:s3cr3t@h:1:2/{TARGET}/1",
        f"iscsi://me:a@s3cr3t@h/{TARGET}/1",
        f"iscsi://:s3cr3t@h/{TARGET}/1",
        f"iscsi://me:s3cr3t/x@h/{TARGET}/1",
        f"iscsi://me:a/s3cr3t@h/{TARGET}/1",
        f"iscsi://me@h/{TARGET}/1?target_user=a&target_password=s3cr3t",
        f"iscsi://h/{TARGET}/1?PASSWORD=s3cr3t",
    ],
)
def test_a_password_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(SecretError) as caught:
        parse_url(text)
    assert "secret file" in str(caught.value)
    assert caught.value.value is None
    assert_not_told(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:s3cr3t@h/{TARGET}/1",
        f"http://me:s3cr3t?@h/{TARGET}/1",
        f"iscsi://me:s3cr3t?x@h/{TARGET}/1",
        f"iscsi://me:s3cr3t#x@h/{TARGET}/1",
        f"iscsi://h/{TARGET}/1?auth=s3cr3t",
        "iscsi://s3cr3t@h/disk/1",
        "iscsi://s3cr3t@h",
        "iscsi://s3cr3t@x@h/disk",
    ],
)
def test_what_may_be_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(text)
    assert_not_told(caught.value)


def assert_not_told(error: BaseException | None) -> None:
    while error is not None:
        assert "s3cr3t" not in f"{error} {error!r} {vars(error)}"
        assert error.__suppress_context__ or error.__context__ is None
        error = error.__cause__


def test_errors_name_the_reason() -> None:
    with pytest.raises(InvalidUrl, match=r"iqn\.2001-13\.com\.example.*is no iqn name.*yyyy-mm"):
        parse_url("iscsi://h/iqn.2001-13.com.example/1")
    with pytest.raises(InvalidUrl, match="'1' is no IPv4 address"):
        parse_url(f"iscsi://10.0.0.1:3260,1/{TARGET}/1")


@given(st.text(max_size=60).map("iscsi://".__add__) | st.text(max_size=20))
def test_any_text_is_a_url_or_a_configuration_error(text: str) -> None:
    try:
        url = parse_url(text)
    except ConfigurationError:
        return
    assert parse_url(str(url)) == url
