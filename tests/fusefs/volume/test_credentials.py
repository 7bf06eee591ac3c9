# SPDX-License-Identifier: Apache-2.0
"""CHAP secrets from files: read, or refused where others may read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusefs.spec import VolumeSpec
from fusefs.volume.credentials import credentials_for
from pyscsi_init.errors import SecretError
from pyscsi_init.secret import Chap, Secret

URL = "iscsi://127.0.0.1/iqn.2026-01.com.example:disk/1"


def secret(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text + "\n")
    path.chmod(mode)
    return str(path)


def test_both_secrets_are_read_at_each_attach(tmp_path: Path) -> None:
    spec = VolumeSpec(
        url=URL,
        chap_user="me",
        chap_secret_file=secret(tmp_path / "ours", "one"),
        chap_peer_user="it",
        chap_peer_secret_file=secret(tmp_path / "theirs", "two"),
    )
    assert credentials_for(spec, None) == Chap(
        user="me", secret=Secret("one"), mutual_user="it", mutual_secret=Secret("two")
    )
    secret(tmp_path / "ours", "changed")
    found = credentials_for(spec, None)
    assert found is not None
    assert found.secret == Secret("changed")
    given = Chap(user="you", secret=Secret("three"))
    assert credentials_for(spec, given) == given
    assert credentials_for(VolumeSpec(url=URL), None) is None


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o666])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    file = secret(tmp_path / "secret", "one two three", mode)
    spec = VolumeSpec(url=URL, chap_user="me", chap_secret_file=file)
    with pytest.raises(SecretError, match=f"mode {mode:o}.*chmod 600") as caught:
        credentials_for(spec, None)
    assert "one two" not in str(caught.value)
    os.chmod(file, 0o640)
    assert credentials_for(spec, None) is not None


@pytest.mark.root
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = secret(tmp_path / "secret", "one")
    os.chown(file, 12345, 0)
    spec = VolumeSpec(url=URL, chap_user="me", chap_secret_file=file)
    with pytest.raises(SecretError, match="belongs to user 12345"):
        credentials_for(spec, None)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    spec = VolumeSpec(url=URL, chap_user="me", chap_secret_file=str(tmp_path / "no"))
    with pytest.raises(SecretError, match="cannot be read"):
        credentials_for(spec, None)
