# SPDX-License-Identifier: Apache-2.0
"""Credentials from the secrets of a call: which keys count, and that nothing shows."""

from __future__ import annotations

import pytest

from fusefs.csi.secrets import read_secrets
from fusefs.errors import InvalidSpec
from pyscsi_init.secret import Secret

S = "node.session.auth."
ONE_WAY = {f"{S}username": "reader", f"{S}password": "hush-hush-hush"}
MUTUAL = {**ONE_WAY, f"{S}username_in": "target", f"{S}password_in": "hash-hash-hash"}


def test_none() -> None:
    assert read_secrets({}, wanted=None) is None
    assert read_secrets({}, wanted=False) is None
    assert read_secrets(ONE_WAY, wanted=False) is None


def test_one_way_and_mutual() -> None:
    one = read_secrets(ONE_WAY, wanted=None)
    assert one is not None
    assert (one.user, one.secret, one.mutual_secret) == ("reader", Secret("hush-hush-hush"), None)
    both = read_secrets(MUTUAL, wanted=True)
    assert both is not None
    assert (both.mutual_user, both.mutual_secret) == ("target", Secret("hash-hash-hash"))
    assert "hush" not in repr(both)


def test_empty_values_are_not_set() -> None:
    chap = read_secrets({**ONE_WAY, f"{S}username_in": "", f"{S}password_in": ""}, wanted=True)
    assert chap is not None
    assert chap.mutual_secret is None


def test_democratic_csi() -> None:
    secrets = {f"node-db.{key}": value for key, value in ONE_WAY.items()}
    chap = read_secrets({**secrets, f"node-db.{S}authmethod": "CHAP"}, wanted=None)
    assert chap is not None
    assert chap.user == "reader"
    assert read_secrets({**secrets, f"node-db.{S}authmethod": "None"}, wanted=None) is None
    other = {"node-db.node.session.timeo.replacement_timeout": "5"}
    assert read_secrets({**secrets, **other}, wanted=None) == chap


def test_discovery_credentials_are_not_needed() -> None:
    for prefix in ("discovery.sendtargets.auth.", "node.sendtargets.auth."):
        extra = {f"{prefix}username": "u", f"{prefix}password": "p"}
        assert read_secrets(extra, wanted=None) is None
        assert read_secrets({**ONE_WAY, **extra}, wanted=True) is not None


@pytest.mark.parametrize(
    ("secrets", "wanted", "text"),
    [
        ({}, True, "username': is missing, and the volume wants CHAP; name a Secret"),
        ({f"{S}username": "reader"}, None, f"comes without {S}password"),
        ({f"{S}password": "hush-hush"}, None, f"comes without {S}username"),
        ({**ONE_WAY, f"{S}password_in": "hush-hush"}, None, f"comes without {S}username_in"),
        ({f"{S}username_in": "t", f"{S}password_in": "hush"}, None, "is missing"),
        ({"password": "hush-hush"}, None, f"is not known; known are {S}username"),
        ({f"{S}authmethod": "hush"}, None, "neither CHAP nor None"),
    ],
)
def test_refused_without_a_value(secrets: dict[str, str], wanted: bool | None, text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_secrets(secrets, wanted=wanted)
    assert text in str(caught.value)
    assert "hush" not in str(caught.value)
