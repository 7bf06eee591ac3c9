# SPDX-License-Identifier: Apache-2.0
"""The command itself: its subcommands, found when they are needed, and how any of them ends.

An expected error is one line on standard error and an exit status of its own; anything else is a
fault of ours and shows where it happened. With ``--json`` the error is a JSON document too.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from typing import cast

import click

from fusefs.cli import output
from fusefs.cli.exit_codes import BROKEN_PIPE, FAILED, is_expected, status_of, table_text
from fusefs.cli.output import Invocation, OutputClosed
from fusefs.cli.signals import Stopped
from fusefs.volume_errors import in_words

PROGRAM = "pyscsi-init"

COMMANDS = {
    "discover": "discovery",
    "watch": "watching",
    "luns": "targets",
    "info": "targets",
    "reservations": "reservations",
    "copy": "copy",
    "bench": "bench",
    "attach": "volumes",
    "detach": "volumes",
    "mount": "volumes",
    "umount": "volumes",
    "forget": "forget",
    "upgrade": "upgrade",
    "serve": "serve",
    "data-plane": "data_plane",
    "resize": "resize",
    "status": "status",
    "convert": "convert",
    "doctor": "doctor",
    "demo": "demo",
}
"""Command -> the module of this package that has it, as a function of the command's name."""

_CREDENTIALS_IN_URL = re.compile(r"(iscsi://)[^\s'\"]*@", re.IGNORECASE)


class LazyGroup(click.Group):
    """Commands are imported when they are run, or all of them for ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        found = importlib.import_module(f"fusefs.cli.{module}")
        return cast("click.Command", getattr(found, cmd_name.replace("-", "_")))


@click.group(
    cls=LazyGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit status:\n" + table_text(),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _parameter, wanted: _version(ctx) if wanted else None,
    help="Show the version and exit.",
)
def cli() -> None:
    """iSCSI LUNs as files, block devices and directories, without a kernel initiator.

    discover, watch, luns, info, reservations, copy and bench work as any user; attach and mount
    need root. A PORTAL is host[:port]; a URL is
    iscsi://[user@]host[:port][,host...]/target-name[/lun]. Secrets come from files or from the
    environment, never from arguments.
    """


def _version(ctx: click.Context) -> None:
    try:
        version = importlib.metadata.version(PROGRAM)
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed as a package)"
    output.write(f"{PROGRAM} {version}\n")
    ctx.exit()


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and report how it ended; returns its exit status."""
    invocation = Invocation()
    with _logging(invocation):
        try:
            value = cli.main(
                args=list(arguments) if arguments is not None else None,
                prog_name=PROGRAM,
                standalone_mode=False,
                obj=invocation,
            )
        except OutputClosed:
            return BROKEN_PIPE
        except BaseException as error:
            return _report(error, invocation)
        return value if isinstance(value, int) else 0


def _report(error: BaseException, invocation: Invocation) -> int:
    """Say what went wrong; returns the exit status."""
    if isinstance(error, SystemExit):
        raise error
    status = error.status if isinstance(error, Stopped) else status_of(error)
    expected = isinstance(error, Stopped) or is_expected(error)
    text = scrub(_sentence(error))
    if invocation.debug or not expected:
        output.warn(scrub("".join(traceback.format_exception(error)).rstrip()))
    output.warn(text if expected else f"internal error: {text}")
    if invocation.json:
        name = type(error).__name__
        with contextlib.suppress(OutputClosed):
            output.document({"error": {"class": name, "message": text, "exit_status": int(status)}})
    return int(status) or FAILED


def _sentence(error: BaseException) -> str:
    """One line for a person."""
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else PROGRAM
        return f"{error.format_message()} See `{where} --help`."
    if isinstance(error, OSError) and error.strerror:
        return in_words(error)
    text = str(error) or type(error).__name__
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())


def scrub(text: str) -> str:
    """``text`` without what stands before the @ of a URL: it may be a password."""
    return _CREDENTIALS_IN_URL.sub(r"\1...@", text)


class _LogHandler(logging.Handler):
    """Log records on standard error, as many as ``--verbose`` asks for."""

    def __init__(self, invocation: Invocation) -> None:
        super().__init__()
        self._invocation = invocation

    def emit(self, record: logging.LogRecord) -> None:
        verbose = self._invocation.verbose
        # The initiator's warnings come back as errors of the call; the volume layer's tell of
        # something that stays behind although the call ends.
        if verbose or record.name.startswith("fusefs"):
            output.warn(scrub(f"{record.levelname.lower()}: {record.getMessage()}"))


@contextlib.contextmanager
def _logging(invocation: Invocation) -> Iterator[None]:
    handler = _LogHandler(invocation)
    loggers = [logging.getLogger(name) for name in ("pyscsi_init", "fusefs")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
