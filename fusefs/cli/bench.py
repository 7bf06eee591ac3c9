# SPDX-License-Identifier: Apache-2.0
"""bench: how fast a LUN is through this initiator, without root, mount or kernel in between.

What it measures and how is in measuring.py; here are the options, the live line and the result.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import click

from fusefs.cli import output, runner
from fusefs.cli.endpoints import lun_url, volume_that_has
from fusefs.cli.measuring import PATTERNS, Counted, Load, Measured, measure
from fusefs.cli.options import LoginOptions, common_options, json_option, login_options
from fusefs.cli.output import Invocation, size_text
from fusefs.cli.tracing import size_option
from fusefs.errors import AlreadyAttached
from pyscsi_init import LogicalUnit, open_lun
from pyscsi_init.device import require_writable
from pyscsi_init.errors import ConfigurationError
from pyscsi_init.url import IscsiUrl

MAX_BLOCK_BYTES = 64 << 20
MAX_MEMORY_BYTES = 4 << 30
"""Of all buffers: more is a slip, and would push the machine into swapping."""
LIVE_LINE_S = 0.5


def make_load(rw: str, bs: int, iodepth: int, runtime: float, offset: int, size: int) -> Load:
    """The load that the options describe.

    Raises:
        ConfigurationError: which value cannot be, and why.
    """
    if not 512 <= bs <= MAX_BLOCK_BYTES:
        raise ConfigurationError(
            "--bs", bs, "is out of range", f"512 to {MAX_BLOCK_BYTES} bytes, such as 4k"
        )
    if bs * iodepth > MAX_MEMORY_BYTES:
        raise ConfigurationError(
            "--iodepth", iodepth, f"times --bs takes {size_text(bs * iodepth)} of memory",
            f"at most {size_text(MAX_MEMORY_BYTES)}: give a smaller one of the two",
        )  # fmt: skip
    if not (math.isfinite(runtime) and 0 < runtime <= 86400):
        raise ConfigurationError(
            "--runtime", runtime, "is out of range", "seconds, above 0 and at most 86400"
        )
    return Load(pattern=rw, block_size=bs, depth=iodepth, seconds=runtime, offset=offset, size=size)


@click.command(
    epilog="\b\nExample:\n"
    "  pyscsi-init bench iscsi://192.0.2.7/iqn.2026-01.org.example:disk1/1"
    " --rw randread --bs 4k --iodepth 32"
)
@click.argument("url")
@click.option(
    "--rw",
    type=click.Choice(PATTERNS),
    default="randread",
    show_default=True,
    help="What is done; randrw is half reads, half writes.",
)
@click.option(
    "--bs", callback=size_option, default="4k", show_default=True, help="Bytes of a request."
)
@click.option(
    "--iodepth",
    type=click.IntRange(1, 1024),
    default=32,
    show_default=True,
    help="Requests in flight.",
)
@click.option("--runtime", type=float, default=10.0, show_default=True, help="Seconds.")
@click.option(
    "--offset", callback=size_option, help="Where the range begins that is used [default: 0]."
)
@click.option(
    "--size", callback=size_option, help="How long it is [default: to the end of the LUN]."
)
@click.option(
    "--destroy-data", is_flag=True, help="Needed to write: what is in the range is overwritten."
)
@click.option(
    "--loop",
    type=click.Choice(runner.LOOPS),
    default=None,
    help="The event loop to run on [default: uvloop where it is installed].",
)
@login_options(backend=False)
@json_option
@common_options
@click.pass_obj
def bench(
    invocation: Invocation,
    url: str,
    rw: str,
    bs: int,
    iodepth: int,
    runtime: float,
    offset: int,
    size: int,
    destroy_data: bool,
    loop: str | None,
    login: LoginOptions,
) -> None:
    """Measure a LUN: I/O per second, bandwidth, latencies, and the CPU time that it takes here.

    Writes put random data over what is there: they need --destroy-data, and are refused on a LUN
    that this host has attached as a volume.
    """
    address = lun_url(url)
    load = make_load(rw, bs, iodepth, runtime, offset, size)
    if load.writes and not destroy_data:
        raise ConfigurationError(
            "--rw", rw, "overwrites what is on the LUN",
            "give --destroy-data if nothing on it is needed, or measure reads",
        )  # fmt: skip
    measured, unit = runner.run(
        functools.partial(_measure, invocation, address, load, login), loop=loop
    )
    if invocation.json:
        output.document(
            {"url": str(address), "load": _load_document(load), **unit, **_document(measured)}
        )
        return
    output.fields({_title(load): _told(load, measured)})


async def _measure(
    invocation: Invocation, address: IscsiUrl, load: Load, login: LoginOptions
) -> tuple[Measured, dict[str, Any]]:
    with output.steps(invocation) as step:
        step(f"log in to {address.target}")
        opening = contextlib.AsyncExitStack()
        unit = await opening.enter_async_context(
            open_lun(
                address,
                chap=login.credentials(address),
                settings=login.session_settings(),
                initiator_name=login.initiator_name,
                read_only=not load.writes,
            )
        )
    async with opening:
        if load.writes:
            await _check_writable(address, unit)
        counted = Counted()
        async with _live_line(invocation, load, counted):
            measured = await measure(unit, load, counted)
        return measured, {"size_bytes": unit.size_bytes, "lun_block_size": unit.block_size}


async def _check_writable(address: IscsiUrl, unit: LogicalUnit) -> None:
    require_writable(unit)
    holder = await anyio.to_thread.run_sync(volume_that_has, unit)
    if holder is not None:
        raise AlreadyAttached(str(address), other=holder)


@contextlib.asynccontextmanager
async def _live_line(invocation: Invocation, load: Load, counted: Counted) -> AsyncIterator[None]:
    """The rates of the last moment, in one line of a terminal that is written over."""
    if not sys.stderr.isatty() or invocation.json:
        yield
        return

    async def show() -> None:
        begin = before = anyio.current_time()
        ios = 0
        while True:
            await anyio.sleep(LIVE_LINE_S)
            now = anyio.current_time()
            rate = (counted.ios - ios) / (now - before)
            before, ios = now, counted.ios
            _line(
                f"{now - begin:5.0f} of {load.seconds:.0f} s  {rate:10,.0f} IOPS  "
                f"{rate * load.block_size / 2**20:10,.1f} MiB/s"
            )

    async with anyio.create_task_group() as group:
        group.start_soon(show)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
            _line("")


def _line(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _load_document(load: Load) -> dict[str, Any]:
    return {
        "rw": load.pattern,
        "bs": load.block_size,
        "iodepth": load.depth,
        "runtime": load.seconds,
        "offset": load.offset,
        "size": load.size,
    }


def _document(measured: Measured) -> dict[str, Any]:
    """JSON has no NaN: what is not known is null."""

    def known(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    values = measured.as_document()
    values["latency_us"] = {name: known(value) for name, value in measured.latency_us.items()}
    return {name: known(value) for name, value in values.items()}


def _title(load: Load) -> str:
    return f"{load.pattern}, {size_text(load.block_size)}, {load.depth} in flight"


def _told(load: Load, measured: Measured) -> dict[str, object]:
    told: dict[str, object] = {
        "IOPS": f"{measured.iops:,.0f}",
        "bandwidth": f"{measured.bytes_per_second / 2**20:,.1f} MiB/s",
        "requests": f"{measured.ios:,} in {measured.seconds:.2f} s",
    }
    if load.mixed:
        told["of these"] = f"{measured.reads:,} reads, {measured.writes:,} writes"
    for name, value in measured.latency_us.items():
        told[f"latency {name}"] = f"{value:,.0f} us"
    told["CPU per request"] = f"{measured.cpu_us_per_io:.1f} us"
    return told
