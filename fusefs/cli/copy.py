# SPDX-License-Identifier: Apache-2.0
"""copy: a LUN to a file, a file to a LUN, or a LUN to another one, without a mount, without root.

The checksum is that of the whole content, so it is the same for both directions and for
``sha256sum`` on a raw image.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import click

from fusefs.cli import output, runner
from fusefs.cli.copying import CHUNK_BYTES, Copied, Progress
from fusefs.cli.copying import copy as copy_all
from fusefs.cli.endpoints import is_url, lun_url, open_destination, open_source
from fusefs.cli.options import LoginOptions, common_options, json_option, login_options
from fusefs.cli.output import Invocation, printable, size_text


@click.command(
    epilog="\b\nExample:\n"
    "  pyscsi-init copy iscsi://192.0.2.7/iqn.2026-01.org.example:disk1/1 disk1.img\n"
    "  pyscsi-init copy disk1.img iscsi://192.0.2.7/iqn.2026-01.org.example:disk2/1"
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--overwrite", is_flag=True, help="Also a file that exists, or a LUN with data.")
@click.option(
    "--depth",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help=f"Chunks of {CHUNK_BYTES >> 20} MiB in flight, which is also the memory it takes.",
)
@click.option("--no-checksum", is_flag=True, help="Do not compute the SHA-256 of the content.")
@login_options(backend=True)
@json_option
@common_options
@click.pass_obj
def copy(
    invocation: Invocation,
    source: str,
    destination: str,
    overwrite: bool,
    depth: int,
    no_checksum: bool,
    login: LoginOptions,
) -> None:
    """Copy SRC to DST; each is a file or the URL of a LUN.

    Zeros become holes in a file, and are not sent to a LUN as data. A destination that is too small
    is refused; so are a LUN that is not blank and a file that exists, without --overwrite.
    """
    for text in (source, destination):
        if is_url(text):
            lun_url(text)
    begin = time.monotonic()

    async def run() -> Copied:
        with _shown(invocation) as shown:
            async with (
                open_source(source, login, shown.step) as origin,
                open_destination(
                    destination, login, origin, shown.step, overwrite=overwrite
                ) as goal,
            ):
                await goal.prepare(origin.size)
                shown.step("copy")
                shown.total(origin.size)
                copied = await copy_all(
                    origin, goal, depth=depth, progress=shown.advance, checksum=not no_checksum
                )
                shown.step("flush")
                await goal.finish()
                return copied

    copied = runner.run(run, backend=login.backend)
    seconds = time.monotonic() - begin
    if invocation.json:
        output.document({**asdict(copied), "seconds": round(seconds, 3)})
        return
    rate = size_text(int(copied.size_bytes / seconds)) if seconds else "-"
    if copied.sha256:
        output.write(f"{copied.sha256}  {printable(destination)}\n")
    output.warn(
        f"copied {size_text(copied.size_bytes)} ({size_text(copied.zero_bytes)} of it zeros) "
        f"in {seconds:.1f} s, {rate}/s"
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a copy tells about itself."""

    step: Callable[[str], None]
    total: Callable[[int], None]
    advance: Progress


@contextlib.contextmanager
def _shown(invocation: Invocation) -> Iterator[_Shown]:
    """A bar with throughput and remaining time on a terminal, else the steps if anything."""
    if not sys.stderr.isatty() or invocation.verbose:
        with output.steps(invocation) as step:
            yield _Shown(step, lambda _size: None, lambda _done: None)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("", total=None)
        yield _Shown(
            lambda text: bars.update(bar, description=escape(printable(text))),
            lambda size: bars.update(bar, total=size),
            lambda done: bars.advance(bar, done),
        )
