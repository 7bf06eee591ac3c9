# SPDX-License-Identifier: Apache-2.0
"""``--cinder`` of attach and mount: a LUN that Cinder's connection_info names, instead of a URL."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fusefs.cinder.connection import Connection, load_connection
from fusefs.cli import output
from fusefs.cli.options import LoginOptions
from fusefs.spec import VolumeSpec
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.secret import Chap

Command = TypeVar("Command", bound=Callable[..., Any])


def _load(_ctx: click.Context, _parameter: click.Parameter, path: str | None) -> Connection | None:
    return load_connection(path) if path is not None else None


def cinder_option(command: Command) -> Command:
    """The option; the command gets what it read as ``connection``."""
    return click.option(
        "--cinder",
        "connection",
        metavar="FILE",
        callback=_load,
        help="Take the LUN from Cinder's connection_info in this JSON file (- is standard input), "
        "not from a URL; with a password in it only its owner may read it.",
    )(command)


def first_url(url: str | None, connection: Connection | None) -> str:
    """The URL to attach, from the argument or the file.

    Raises:
        UsageError: none of the two is given, or both.
    """
    if (url is None) is (connection is None):
        raise click.UsageError(
            "Missing argument 'URL', or --cinder FILE."
            if url is None
            else "A URL and --cinder exclude each other.",
            click.get_current_context(),
        )
    return url if connection is None else str(connection.urls[0])  # type: ignore[return-value]


def mount_arguments(
    first: str | None, second: str | None, connection: Connection | None
) -> tuple[str | None, str]:
    """URL and directory: with ``--cinder`` the directory stands alone.

    Raises:
        UsageError: one is missing.
    """
    if connection is not None and second is None:
        first, second = None, first
    if second is None:
        raise click.UsageError("Missing argument 'DIR'.", click.get_current_context())
    return first, second


def ways(spec: VolumeSpec, connection: Connection | None, name: str) -> tuple[VolumeSpec, ...]:
    """The volume by each way that Cinder tells, or just as it is."""
    if connection is None:
        return (spec,)
    return tuple(
        dataclasses.replace(
            spec,
            name=name or connection.name,
            url=str(url),
            read_only=spec.read_only or connection.read_only,
        )
        for url in connection.urls
    )


def tell(connection: Connection | None) -> None:
    """What was asked for and is not done, of a volume that is there now."""
    if connection is None:
        return
    for note in connection.notes:
        output.warn(output.printable(f"{connection.name}: {note}"))


def credentials(
    login: LoginOptions, spec: VolumeSpec, connection: Connection | None
) -> Chap | None:
    """CHAP as the options or the file have it.

    Raises:
        ConfigurationError: both have it.
        SecretError: as of the options.
    """
    if connection is None or connection.chap is None:
        return login.credentials(spec.address)
    if login.chap_user is not None:
        raise ConfigurationError(
            "--chap-user", login.chap_user, "is given, and --cinder has a user too", "give one"
        )
    return connection.chap
