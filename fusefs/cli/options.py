# SPDX-License-Identifier: Apache-2.0
"""The options that commands share, and what becomes of them: settings, credentials, a name.

Credentials come from a file or from the environment, because an argument can be read by every user
of the host. An attempt to give one as an argument is refused with that remedy, and its value is
never repeated.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from fusefs.cli.output import Invocation
from fusefs.cli.runner import BACKENDS
from fusefs.cli.tracing import TRACE_OPTIONS, trace_settings
from pyscsi_init.device.logical_unit import CHAP_VARIABLE, MUTUAL_CHAP_VARIABLE
from pyscsi_init.errors import ConfigurationError, SecretError
from pyscsi_init.secret import Chap, Secret, read_secret_file
from pyscsi_init.settings import Settings, load_settings, settings_from_mapping
from pyscsi_init.url import IscsiUrl

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_CONFIG = Path("/etc/pyscsi-init.toml")
_REMEDY = (
    f"put it in a file for --chap-secret-file, or in the environment variable {CHAP_VARIABLE}; "
    f"for the mutual one --chap-mutual-secret-file or {MUTUAL_CHAP_VARIABLE}. Consider the "
    "secret known to others now"
)


def _verbose(ctx: click.Context, _parameter: click.Parameter, value: int) -> None:
    if value:
        ctx.ensure_object(Invocation).verbose = value
        for name in ("pyscsi_init", "fusefs"):
            logging.getLogger(name).setLevel(logging.INFO if value == 1 else logging.DEBUG)


def _debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Invocation).debug = value


def _json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Invocation).json = value


def common_options(command: Command) -> Command:
    """``--verbose`` and ``--debug``, for every command."""
    for option in (
        click.option(
            "--debug",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_debug,
            help="Show where an error happened.",
        ),
        click.option(
            "-v",
            "--verbose",
            count=True,
            is_eager=True,
            expose_value=False,
            callback=_verbose,
            help="Tell what is done; twice for more.",
        ),
    ):
        command = option(command)
    return command


def _json_option(text: str) -> Callable[[Command], Command]:
    return click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=_json, help=text
    )


def json_option(command: Command) -> Command:
    """``--json``, for commands that print data."""
    return _json_option("Print one JSON document, errors included.")(command)


def json_lines_option(command: Command) -> Command:
    """``--json``, for commands that go on printing data."""
    return _json_option("Print a JSON document a line.")(command)


def _refuse_secret(_ctx: click.Context, _parameter: click.Parameter, value: object) -> None:
    if value is not None:
        raise SecretError("CHAP secret", None, "was given as an argument", _REMEDY)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """How to log in, as it was asked for."""

    chap_user: str | None
    chap_secret_file: str | None
    chap_mutual_user: str | None
    chap_mutual_secret_file: str | None
    initiator_name: str | None
    settings: tuple[str, ...]
    config: str | None
    trace: str | None = None
    trace_size: int = 0
    backend: str = "asyncio"
    environment: tuple[Secret | None, Secret | None] = (None, None)
    """The secrets of the environment: ours, and the target's."""

    def session_settings(self, base: Settings | None = None) -> Settings:
        """``base``, the configuration file, ``--set``, then ``--trace``: the later one holds.

        Raises:
            ConfigurationError: a name or a value that cannot be.
        """
        settings = base or Settings()
        if self.config is not None:
            settings = load_settings(self.config, settings)
        elif DEFAULT_CONFIG.exists():
            settings = load_settings(DEFAULT_CONFIG, settings)
        values = self.overrides() | trace_settings(self.trace, self.trace_size)
        return settings_from_mapping(values, settings)

    def overrides(self) -> dict[str, str | int]:
        """What ``--set`` says, by the names that were written."""
        values: dict[str, str | int] = {}
        for text in self.settings:
            key, equals, value = text.partition("=")
            if not equals or not key.strip():
                raise ConfigurationError(
                    "--set", text, "is not KEY=VALUE", "such as --set MaxBurstLength=262144"
                )
            values[key.strip()] = value.strip()
        return values

    def credentials(self, url: IscsiUrl | None = None) -> Chap | None:
        """CHAP for a login at ``url`` (None: a discovery session), or None where no user is named.

        Raises:
            SecretError: a secret is missing, or has nobody to belong to.
        """
        url_user = url.user if url is not None else None
        if self.chap_user and url_user and self.chap_user != url_user:
            raise ConfigurationError(
                "--chap-user", self.chap_user, f"differs from the URL's {url_user!r}", "give one"
            )
        user = self.chap_user or url_user
        secret, mutual = self.environment
        if self.chap_secret_file is not None:
            secret = read_secret_file(self.chap_secret_file)
        if self.chap_mutual_secret_file is not None:
            mutual = read_secret_file(self.chap_mutual_secret_file)
        if not user:
            for option, value in (
                ("--chap-secret-file", self.chap_secret_file),
                ("--chap-mutual-secret-file", self.chap_mutual_secret_file),
                ("--chap-mutual-user", self.chap_mutual_user),
            ):
                if value:
                    raise SecretError(option, None, "is given without a user", "add --chap-user")
            return None
        if secret is None:
            raise SecretError(
                f"CHAP secret of user {user!r}",
                None,
                "is missing",
                f"give --chap-secret-file, or set {CHAP_VARIABLE} in the environment",
            )
        if self.chap_mutual_user and mutual is None:
            raise SecretError(
                "--chap-mutual-user",
                None,
                "is given without the target's secret",
                f"give --chap-mutual-secret-file, or set {MUTUAL_CHAP_VARIABLE}",
            )
        return Chap(
            user=user,
            secret=secret,
            mutual_user=self.chap_mutual_user or "",
            mutual_secret=mutual,
        )


def _from_environment(variable: str) -> Secret | None:
    # Taken out, so that programs that are started later do not inherit it.
    value = os.environ.pop(variable, None)
    return Secret(value) if value else None


_OPTION_NAMES = {field.name for field in fields(LoginOptions)} - {"environment"}

_OPTIONS = (
    click.option("--chap-user", metavar="NAME", help="The CHAP user that we prove to be."),
    click.option("--chap-secret-file", metavar="FILE", help="Its secret."),
    click.option("--chap-mutual-user", metavar="NAME", help="The name the target must prove."),
    click.option("--chap-mutual-secret-file", metavar="FILE", help="Its secret."),
    click.option("--initiator-name", metavar="NAME", help="Our iSCSI name."),
    click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help="A setting, by its RFC 7143 name or ours, such as MaxBurstLength=262144.",
    ),
    click.option(
        "--config",
        metavar="FILE",
        help=f"Settings from the table [session] of a TOML file [default: {DEFAULT_CONFIG}].",
    ),
    *TRACE_OPTIONS,
)

_REFUSED = tuple(
    click.option(
        name,
        "refused_secret",
        hidden=True,
        is_flag=False,
        flag_value="",
        expose_value=False,
        is_eager=True,
        callback=_refuse_secret,
    )
    for name in ("--chap-secret", "--chap-password", "--chap-mutual-secret", "--password")
)


def login_options(*, backend: bool) -> Callable[[Command], Command]:
    """The options of commands that log in; the command gets them as ``login``.

    ``backend`` adds ``--backend`` for the commands that run the session themselves.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            values = {name: kwargs.pop(name) for name in _OPTION_NAMES & kwargs.keys()}
            secrets = _from_environment(CHAP_VARIABLE), _from_environment(MUTUAL_CHAP_VARIABLE)
            return command(*args, login=LoginOptions(**values, environment=secrets), **kwargs)

        decorated: Any = wrapper
        options = [*_OPTIONS, *_REFUSED]
        if backend:
            options.append(
                click.option(
                    "--backend",
                    type=click.Choice(BACKENDS),
                    default="asyncio",
                    help="The event loop to run on.",
                )
            )
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def secret_options(command: Command) -> Command:
    """The options for a CHAP secret alone; the command gets them as ``login``."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(name) for name in _OPTION_NAMES & kwargs.keys()}
        login = LoginOptions(**values, initiator_name=None, settings=(), config=None)
        return command(*args, login=login, **kwargs)

    decorated: Any = wrapper
    for option in reversed([*_OPTIONS[:4], *_REFUSED]):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def without_waiting(login: LoginOptions) -> Settings:
    """Settings for commands that ask a few questions: a lost session ends them at once."""
    return login.session_settings(Settings(recovery_timeout=0))
