# SPDX-License-Identifier: Apache-2.0
"""Settings in their order of precedence; credentials from files, environment and URL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusefs.cli import options
from fusefs.cli.options import LoginOptions
from fusefs.cli.volumes import make_spec
from pyscsi_init import Secret, Settings, parse_url
from pyscsi_init.errors import ConfigurationError, SecretError

URL = parse_url("iscsi://alice@192.0.2.1/iqn.2026-01.com.example:a/1")
PLAIN = parse_url("iscsi://192.0.2.1/iqn.2026-01.com.example:a/1")


def login(**values: Any) -> LoginOptions:
    nothing: dict[str, Any] = dict.fromkeys(
        ("chap_user", "chap_secret_file", "chap_mutual_user", "chap_mutual_secret_file",
         "initiator_name", "config")
    )  # fmt: skip
    return LoginOptions(**(nothing | {"settings": ()} | values))


@pytest.fixture(autouse=True)
def _no_host_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "DEFAULT_CONFIG", tmp_path / "default.toml")


def test_the_command_line_holds_over_the_file_over_the_base(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text("[session]\nqueue_depth = 7\nnoop_interval = 9\n")
    options.DEFAULT_CONFIG.write_text("[session]\nqueue_depth = 3\n")
    base = Settings(queue_depth=5, noop_interval=6, login_timeout=4)
    found = login(config=str(config), settings=("QueueDepth=8",)).session_settings(base)
    assert (found.queue_depth, found.noop_interval, found.login_timeout) == (8, 9, 4)
    assert login().session_settings(base).queue_depth == 3


@pytest.mark.parametrize("text", ["MaxBurstLength", "=1", "", "Nonsense=1", "MaxBurstLength=x"])
def test_a_bad_setting_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        login(settings=(text,)).session_settings()


def test_the_user_of_the_url_and_the_secret_of_the_environment() -> None:
    secrets = Secret("one-secret-1234"), Secret("other-secret-12")
    chap = login(environment=secrets).credentials(URL)
    assert chap is not None
    assert (chap.user, chap.secret, chap.mutual_secret) == ("alice", *secrets)


def test_a_file_holds_over_the_environment(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("from-the-file-12\n")
    chap = login(
        chap_user="bob",
        chap_secret_file=str(tmp_path / "s"),
        environment=(Secret("from-environment"), None),
    ).credentials(PLAIN)
    assert chap is not None
    assert (chap.user, chap.secret) == ("bob", Secret("from-the-file-12"))
    assert chap.mutual_secret is None


def test_no_user_is_no_chap_even_with_a_secret_in_the_environment() -> None:
    assert login(environment=(Secret("one-secret-1234"), None)).credentials(PLAIN) is None


@pytest.mark.parametrize(
    "values",
    [
        {"chap_user": "alice"},
        {"chap_secret_file": "/nowhere"},
        {"chap_user": "alice", "chap_secret_file": "/nowhere"},
        {"chap_mutual_user": "storage"},
        {"chap_user": "a", "chap_mutual_user": "b", "environment": (Secret("x" * 16), None)},
    ],
    ids=str,
)
def test_half_of_the_credentials_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SecretError):
        login(**values).credentials(PLAIN)


def test_two_users_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="differs"):
        login(chap_user="bob", environment=(Secret("x" * 16), None)).credentials(URL)


@pytest.mark.parametrize(
    ("on_disconnect", "settings", "config", "timeout"),
    [
        (None, (), "", None),
        ("wait", (), "", None),
        ("fail-after=5", (), "", 5),
        ("fail-fast", (), "", 0),
        (None, ("recovery_timeout=9",), "", 9),
        (None, (), "recovery_timeout = 120", 120),
        ("fail-fast", (), "recovery_timeout = 120", 0),
    ],
)
def test_how_long_a_volume_waits(
    on_disconnect: str | None, settings: tuple[str, ...], config: str, timeout: float | None
) -> None:
    options.DEFAULT_CONFIG.write_text(f"[session]\n{config}\n")
    spec = make_spec(str(PLAIN), login(settings=settings), on_disconnect=on_disconnect)
    assert spec.session_settings() == replace(Settings(), recovery_timeout=timeout)


def test_two_answers_on_the_command_line_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="contradicts"):
        make_spec(str(PLAIN), login(settings=("RecoveryTimeout=1",)), on_disconnect="wait")
