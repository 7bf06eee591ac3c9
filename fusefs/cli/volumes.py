# SPDX-License-Identifier: Apache-2.0
"""attach, detach, mount, umount: a LUN as a block file or a directory of this host, and back.

The arguments become a VolumeSpec and the VolumeManager does the rest; the volume then lives without
this command. These commands need root.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from typing import Any, TypeVar

import click

from fusefs.cinder.connection import Connection
from fusefs.cinder.ways import by_any_way
from fusefs.cli import cinder, output, runner
from fusefs.cli.cinder import cinder_option
from fusefs.cli.exit_codes import HOST
from fusefs.cli.options import LoginOptions, common_options, json_option, login_options
from fusefs.cli.output import Invocation
from fusefs.errors import InvalidSpec, NotAllowed
from fusefs.host import LinuxHost
from fusefs.spec import (
    DURABILITIES,
    FENCINGS,
    FILESYSTEMS,
    FSCK_POLICIES,
    FUSE_CHANNELS,
    VolumeSpec,
    recovery_timeout,
)
from fusefs.volume.manager import VolumeManager
from fusefs.volume.status import VolumeStatus
from fusefs.volume.teardown import DetachReport
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.settings import Settings
from pyscsi_init.url import parse_url

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


WAIT = Settings(recovery_timeout=None)
"""What a volume's settings are compared with: its own default is to wait for the target."""


def _on_disconnect(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> str | None:
    """Checked as VolumeSpec does, under the name that it has here."""
    if text is not None:
        try:
            recovery_timeout(text)
        except InvalidSpec as error:
            raise ConfigurationError("--on-disconnect", text, error.reason, error.remedy) from error
    return text


def _volume_options(command: Command) -> Command:
    for option in reversed(
        (
            click.option("--name", default="", help="The volume's name [default: target and LUN]."),
            click.option("--read-only", is_flag=True, help="In every layer."),
            click.option(
                "--on-disconnect",
                metavar="wait|fail-after=SECONDS|fail-fast",
                callback=_on_disconnect,
                help="What I/O does while the target is away [default: wait].",
            ),
            click.option(
                "--durability",
                type=click.Choice(DURABILITIES),
                default=DURABILITIES[0],
                show_default=True,
                help="When a write is stable: after a flush, or when it is acknowledged (slower).",
            ),
            click.option(
                "--fencing",
                type=click.Choice(FENCINGS),
                default="auto",
                show_default=True,
                help="Keep other nodes from writing: where the target can, or always.",
            ),
            click.option(
                "--take-over",
                is_flag=True,
                help="Take the LUN away from another node that must not write any more.",
            ),
            click.option(
                "--fuse",
                type=click.Choice(FUSE_CHANNELS),
                default=FUSE_CHANNELS[0],
                show_default=True,
                help="How the block file is served.",
            ),
        )
    ):
        command = option(command)
    return command


def make_spec(
    url: str, login: LoginOptions, *, on_disconnect: str | None, **values: Any
) -> VolumeSpec:
    """The volume that the arguments describe.

    Raises:
        ConfigurationError, InvalidSpec: they do not fit together.
    """
    settings = login.session_settings(WAIT)
    changed = {
        field.name: getattr(settings, field.name)
        for field in fields(Settings)
        if getattr(settings, field.name) != getattr(WAIT, field.name)
    }
    if on_disconnect is not None and "recovery_timeout" in changed:
        names = {key.lower().replace("_", "").replace("-", "") for key in login.overrides()}
        if "recoverytimeout" in names:
            raise ConfigurationError(
                "--on-disconnect", on_disconnect, "contradicts --set recovery_timeout", "give one"
            )
        del changed["recovery_timeout"]  # the file's: the command line holds
    return VolumeSpec(
        url=str(parse_url(url)),
        settings=changed,
        initiator_name=login.initiator_name or "",
        on_disconnect=on_disconnect or "wait",
        **values,
    )


def require_root(what: str) -> None:
    """Raise NotAllowed unless this is root."""
    if os.geteuid() != 0:
        raise NotAllowed(what, "it needs root", remedy="run it as root")


def _manager() -> VolumeManager:
    return VolumeManager(LinuxHost())


def _bring_up(
    invocation: Invocation,
    start: Callable[[Callable[[str], None]], Awaitable[VolumeStatus]],
) -> VolumeStatus:
    async def run() -> VolumeStatus:
        with output.steps(invocation) as step:
            return await start(step)

    return runner.run(run)


@click.command(
    epilog="\b\nExample:\n"
    "  pyscsi-init attach iscsi://192.0.2.7/iqn.2026-01.org.example:disk1/1 --name disk1\n"
    "  pyscsi-init attach --cinder connection.json"
)
@click.argument("url", required=False)
@cinder_option
@_volume_options
@login_options(backend=False)
@json_option
@common_options
@click.pass_obj
def attach(
    invocation: Invocation,
    url: str | None,
    connection: Connection | None,
    name: str,
    read_only: bool,
    on_disconnect: str | None,
    durability: str,
    fencing: str,
    take_over: bool,
    fuse: str,
    login: LoginOptions,
) -> None:
    """Make a LUN a block file of this host and print its path; a loop device lies over it."""
    spec = make_spec(
        cinder.first_url(url, connection),
        login,
        on_disconnect=on_disconnect,
        durability=durability,
        fencing=fencing,
        take_over=take_over,
        name=name,
        read_only=read_only,
        fuse_channel=fuse,
    )
    specs = cinder.ways(spec, connection, name)
    credentials = cinder.credentials(login, spec, connection)
    require_root("attach a LUN")
    volume = _bring_up(
        invocation,
        lambda step: by_any_way(specs, lambda each: _manager().attach(each, credentials, step)),
    )
    cinder.tell(connection)
    if invocation.json:
        output.document(asdict(volume))
    else:
        output.write(f"{volume.file}\n")


@click.command(
    epilog="\b\nExample:\n"
    "  pyscsi-init mount iscsi://192.0.2.7/iqn.2026-01.org.example:disk1/1 /mnt/disk1"
    " --fstype xfs --format-if-blank"
)
@click.argument("url", required=False)
@click.argument("directory", metavar="DIR", required=False)
@cinder_option
@_volume_options
@click.option(
    "--fstype",
    type=click.Choice(FILESYSTEMS),
    default=None,
    help="What must be there, or is made [default: what is there; ext4 is made].",
)
@click.option("--format-if-blank", is_flag=True, help="Make a file system where nothing is.")
@click.option(
    "--fsck",
    type=click.Choice(FSCK_POLICIES),
    default=FSCK_POLICIES[0],
    show_default=True,
    help="The check before a writable mount: as its makers advise, none, or in full.",
)
@click.option("-o", "options", multiple=True, metavar="OPTS", help="Mount options, with commas.")
@login_options(backend=False)
@json_option
@common_options
@click.pass_obj
def mount(
    invocation: Invocation,
    url: str | None,
    directory: str | None,
    connection: Connection | None,
    name: str,
    read_only: bool,
    on_disconnect: str | None,
    durability: str,
    fencing: str,
    take_over: bool,
    fuse: str,
    fstype: str | None,
    format_if_blank: bool,
    fsck: str,
    options: tuple[str, ...],
    login: LoginOptions,
) -> None:
    """Mount a LUN's file system on an empty directory."""
    url, where = cinder.mount_arguments(url, directory, connection)
    wanted = [option for text in options for option in text.split(",") if option]
    read_only = read_only or "ro" in wanted
    spec = make_spec(
        cinder.first_url(url, connection),
        login,
        on_disconnect=on_disconnect,
        durability=durability,
        fencing=fencing,
        take_over=take_over,
        name=name,
        read_only=read_only,
        fuse_channel=fuse,
        fstype=fstype or "",
        format_if_blank=format_if_blank,
        fsck=fsck,
        mount_options=tuple(option for option in wanted if option not in ("ro", "rw")),
    )
    specs = cinder.ways(spec, connection, name)
    credentials = cinder.credentials(login, spec, connection)
    require_root("mount a LUN")
    volume = _bring_up(
        invocation,
        lambda step: by_any_way(
            specs, lambda each: _manager().mount(each, where, credentials, step)
        ),
    )
    cinder.tell(connection)
    if invocation.json:
        output.document(asdict(volume))
    else:
        rights = "read-only" if volume.read_only else "read-write"
        output.write(
            f"{volume.name}: {volume.loop} ({volume.fstype}, {rights}) on {volume.mountpoint}\n"
        )


@click.command(epilog="\b\nExample:\n  pyscsi-init detach disk1")
@click.argument("name")
@click.option("--force", is_flag=True, help="Whatever its state; unwritten data may be lost.")
@json_option
@common_options
@click.pass_obj
def detach(invocation: Invocation, name: str, force: bool) -> int:
    """Take an attached volume away: flush, log out, remove the block file."""
    require_root("detach a volume")
    return _end(invocation, functools.partial(_manager().detach, name, force))


@click.command(epilog="\b\nExample:\n  pyscsi-init umount /mnt/disk1")
@click.argument("volume", metavar="NAME|DIR")
@click.option("--force", is_flag=True, help="Whatever its state; unwritten data may be lost.")
@json_option
@common_options
@click.pass_obj
def umount(invocation: Invocation, volume: str, force: bool) -> int:
    """Unmount a volume, by its name or its directory, and detach it."""
    require_root("unmount a volume")
    return _end(invocation, functools.partial(_manager().umount, volume, force))


def _end(invocation: Invocation, step: Callable[[], Awaitable[DetachReport]]) -> int:
    report = runner.run(step)
    if invocation.json:
        output.document({**asdict(report), "clean": report.clean})
    if report.unflushed_writes is None and report.requests_in_flight is not None:
        output.warn(
            f"{report.name}: lost are {report.requests_in_flight} requests without an answer; how "
            f"many writes were answered but not flushed is not known, because another worker "
            f"answered them; what a filesystem still held in memory was never sent"
        )
    elif report.requests_in_flight is None or report.unflushed_writes is None:
        if not report.problems:
            output.warn(f"{report.name}: nobody could be asked what was not written yet")
    elif report.requests_in_flight or report.unflushed_writes:
        output.warn(
            f"{report.name}: lost are {report.requests_in_flight} requests without an answer; "
            f"at most {report.unflushed_writes} writes were answered but not flushed to stable "
            f"storage; what a filesystem still held in memory was never sent"
        )
    for problem in report.problems:
        output.warn(f"{report.name}: {problem}")
    if report.stays:
        output.warn(f"{report.name}: {report.stays}")
    return HOST if report.problems else 0
