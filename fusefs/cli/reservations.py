# SPDX-License-Identifier: Apache-2.0
"""reservations: who is registered with a LUN and who holds it; and taking it away, for who fences.

A session of its own with an ISID of its own, so it is a stranger to the LUN until it registers.
Needs neither root nor anything of fusefs but its errors. No data is read or written.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

import anyio
import click

from fusefs.cli import output, runner
from fusefs.cli.options import (
    LoginOptions,
    common_options,
    json_option,
    login_options,
    without_waiting,
)
from fusefs.cli.output import Invocation
from pyscsi_init import LogicalUnit, PersistentReservations, open_lun, parse_url
from pyscsi_init.errors import ConfigurationError, IscsiError, Unsupported
from pyscsi_init.scsi import Reservation, ReservationType

LARGEST_KEY = (1 << 64) - 1
_HELD_BY_ALL = (
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
)


class _Key(click.ParamType):  # type: ignore[type-arg]  # older ones take no argument
    """A reservation key: 0x in front of hexadecimal digits, or decimal."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            key = int(str(value), 0)
        except ValueError:
            key = -1
        if not 0 < key <= LARGEST_KEY:
            self.fail(f"{value!r} is no key: 0x1 to 0x{LARGEST_KEY:x}, or decimal", param, ctx)
        return key


@click.command(
    epilog="\b\nExample:\n"
    "  pyscsi-init reservations iscsi://192.0.2.7/iqn.2026-01.org.example:disk1/1\n"
    "  pyscsi-init reservations iscsi://192.0.2.7/iqn.2026-01.org.example:disk1/1 "
    "--preempt 0xa --key 0xb"
)
@click.argument("url")
@click.option(
    "--preempt",
    type=_Key(),
    help="Remove the registrations with this key and end their tasks; what they held is then held "
    "by --key.",
)
@click.option(
    "--release",
    is_flag=True,
    help="Give the LUN free; its holder loses its registration, others keep theirs.",
)
@click.option("--clear", is_flag=True, help="Remove the reservation and every registration.")
@click.option(
    "--key", type=_Key(), help="The key that this command registers with; by default a random one."
)
@login_options(backend=True)
@json_option
@common_options
@click.pass_obj
def reservations(
    invocation: Invocation,
    url: str,
    login: LoginOptions,
    preempt: int | None,
    release: bool,
    clear: bool,
    key: int | None,
) -> None:
    """Show the persistent reservation of a LUN and who is registered; or take it away.

    Only do that to a node that is certainly dead or must not write any more.
    """
    if (preempt is not None) + release + clear > 1:
        raise ConfigurationError(
            "options", "--preempt, --release, --clear", "are one too many", "give one of them"
        )
    address = parse_url(url)
    own = key or secrets.randbits(63) + 1

    async def ask() -> dict[str, Any]:
        with output.steps(invocation) as step:
            step(f"log in to {address.target}")
            async with open_lun(
                address,
                read_only=True,
                chap=login.credentials(address),
                settings=without_waiting(login),
                initiator_name=login.initiator_name,
            ) as lun:
                if preempt is not None or release or clear:
                    step(f"register with key {_text(own)}")
                    await _take(lun.reservations, own, preempt, release=release)
                return await _state(lun)

    state = runner.run(ask, backend=login.backend)
    if invocation.json:
        output.document(state)
        return
    held = state["reservation"]
    holder = "nobody holds it" if held is None else f"held by {held['key']}, {held['type']}"
    output.write(f"{state['lun']}: {holder}\n")
    if state["registrations"]:
        rows = [
            (
                one["key"],
                one["initiator"],
                one["target_port"] or "-",
                "yes" if one["holder"] else "",
            )
            for one in state["registrations"]
        ]
        output.table(("KEY", "INITIATOR", "PORT", "HOLDER"), rows)


async def _take(pr: PersistentReservations, own: int, victim: int | None, *, release: bool) -> None:
    await pr.register_and_ignore_existing_key(own)
    try:
        held = (await pr.read_reservation()).reservation
        if victim is not None:
            await _preempt(pr, own, victim, held)
            held = (await pr.read_reservation()).reservation
            if held is not None and held.key in (0, own):
                return  # the registration holds what the victim held
        elif release and held is not None:
            kind = ReservationType(held.reservation_type)
            if kind not in _HELD_BY_ALL:
                await _preempt(pr, own, held.key, held)
            await pr.release(own, kind)
        elif not release:
            await pr.clear(own)
            return
    except BaseException:
        with anyio.CancelScope(shield=True), contextlib.suppress(IscsiError):
            await pr.unregister(own)
        raise
    await pr.unregister(own)


async def _preempt(
    pr: PersistentReservations, own: int, victim: int, held: Reservation | None
) -> None:
    # The type counts only where the victim holds the LUN; another one would change nothing then.
    kind = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
    if held is not None:
        kind = ReservationType(held.reservation_type)
    try:
        await pr.preempt_and_abort(own, victim, kind)
    except Unsupported:
        await pr.preempt(own, victim, kind)
        output.warn("the target does not end the tasks of the victim: one may still be done")


async def _state(lun: LogicalUnit) -> dict[str, Any]:
    pr = lun.reservations
    held = (await pr.read_reservation()).reservation
    return {
        "lun": lun.identity.name,
        "reservation": held and {"key": _text(held.key), "type": _type(held.reservation_type)},
        "registrations": await _registrations(pr, held),
    }


async def _registrations(
    pr: PersistentReservations, held: Reservation | None
) -> list[dict[str, Any]]:
    try:
        full = (await pr.read_full_status()).registrations
    except Unsupported:
        # Old units list the keys alone.
        keys = (await pr.read_keys()).keys
        return [
            {
                "key": _text(key),
                "initiator": "",
                "target_port": None,
                "holder": held is not None and held.key in (0, key),
            }
            for key in keys
        ]
    return [
        {
            "key": _text(one.key),
            "initiator": one.transport_id.text,
            "target_port": None if one.all_target_ports else one.relative_target_port,
            "holder": one.holder,
        }
        for one in full
    ]


def _text(key: int) -> str:
    return f"0x{key:x}"


def _type(number: int) -> str:
    try:
        return ReservationType(number).name.lower().replace("_", " ")
    except ValueError:
        return f"type {number:x}h"
