# SPDX-License-Identifier: Apache-2.0
"""luns, info: what a target and a logical unit say of themselves.

Sessions of their own, which log out at the end; nothing is written. They need neither root nor
anything of fusefs but its errors.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from fusefs.cli import output, runner
from fusefs.cli.options import (
    LoginOptions,
    common_options,
    json_option,
    login_options,
    without_waiting,
)
from fusefs.cli.output import Invocation, size_text
from pyscsi_init import open_lun, open_session, parse_url
from pyscsi_init.device.driver import drive
from pyscsi_init.device.probe import probe_capacity
from pyscsi_init.errors import IscsiError
from pyscsi_init.names import isid_text
from pyscsi_init.scsi import StandardInquiry, inquiry
from pyscsi_init.scsi.luns import decode_lun, lun_text
from pyscsi_init.transport import Session
from pyscsi_init.url import IscsiUrl

INQUIRY_BYTES = 96


def how_to_log_in(login: LoginOptions, address: IscsiUrl | None = None) -> dict[str, Any]:
    """What each session here is opened with; it does not wait for a target that goes away."""
    return {
        "chap": login.credentials(address),
        "settings": without_waiting(login),
        "initiator_name": login.initiator_name,
    }


@click.command(
    epilog="\b\nExample:\n  pyscsi-init luns iscsi://192.0.2.7/iqn.2026-01.org.example:disk1"
)
@click.argument("url")
@login_options(backend=True)
@json_option
@common_options
@click.pass_obj
def luns(invocation: Invocation, url: str, login: LoginOptions) -> None:
    """The logical units of a target; a LUN in the URL is ignored."""
    address = parse_url(url)
    how = how_to_log_in(login, address)

    async def ask() -> list[dict[str, Any]]:
        with output.steps(invocation) as step:
            step(f"log in to {address.target}")
            async with open_session(address.portals, address.target, **how) as session:
                found = []
                for lun in await session.report_luns():
                    step(f"ask LUN {lun_text(lun)}")
                    found.append(await _describe(session, address, lun))
                return found

    units = runner.run(ask, backend=login.backend)
    if invocation.json:
        output.document(units)
        return
    rows = [
        (
            unit["lun"],
            unit["type"],
            size_text(unit["size_bytes"]) if unit["size_bytes"] else "-",
            unit["block_size"] or "-",
            f"{unit['vendor']} {unit['product']}".strip(),
            unit["error"] or unit["url"],
        )
        for unit in units
    ]
    output.table(("LUN", "TYPE", "SIZE", "BLOCK", "PRODUCT", "URL"), rows)


async def _describe(session: Session, address: IscsiUrl, lun: bytes) -> dict[str, Any]:
    """One logical unit; what cannot be asked is told in ``error``, for the others' sake."""
    number = decode_lun(lun)
    unit: dict[str, Any] = {
        "lun": number if isinstance(number, int) else number.hex(),
        "type": "unknown",
        "vendor": "",
        "product": "",
        "size_bytes": 0,
        "block_size": 0,
        "url": "",
        "error": "",
    }
    if isinstance(number, int):
        unit["url"] = str(IscsiUrl(address.user, address.portals, address.target, number))
    try:
        answer = await session.execute(lun, inquiry(INQUIRY_BYTES), data_in_length=INQUIRY_BYTES)
        standard = StandardInquiry.parse(answer.data)
        unit["type"] = standard.device_type_text
        unit["vendor"], unit["product"] = standard.vendor, standard.product
        if standard.is_disk:
            capacity = await drive(probe_capacity(f"LUN {unit['lun']}"), session, lun)
            unit["block_size"] = capacity.block_size
            unit["size_bytes"] = capacity.blocks * capacity.block_size
        else:
            unit["url"] = ""
    except IscsiError as error:
        if session.failed is not None:
            raise
        unit["error"] = str(error)
    return unit


@click.command(
    epilog="\b\nExample:\n  pyscsi-init info iscsi://192.0.2.7/iqn.2026-01.org.example:disk1/1"
)
@click.argument("url")
@login_options(backend=True)
@json_option
@common_options
@click.pass_obj
def info(invocation: Invocation, url: str, login: LoginOptions) -> None:
    """What a LUN is: identity, capacity, limits, and what was negotiated with its target."""
    address = parse_url(url)
    how = how_to_log_in(login, address)

    async def ask() -> dict[str, dict[str, Any]]:
        with output.steps(invocation) as step:
            step(f"log in to {address.target}")
            async with open_lun(address, read_only=True, **how) as unit:
                facts, session = unit.facts, unit.session
                limits = unit.unit.limits
                return {
                    "unit": {
                        "name": unit.identity.name,
                        "designators": list(unit.identity.designators),
                        "serial_number": unit.identity.serial_number,
                        "vendor": unit.inquiry.vendor,
                        "product": unit.inquiry.product,
                        "revision": unit.inquiry.revision,
                        "type": unit.inquiry.device_type_text,
                        "contents": list(unit.identity.witnesses),
                    },
                    "capacity": {
                        "size_bytes": unit.size_bytes,
                        "block_size": facts.capacity.block_size,
                        "blocks": facts.capacity.blocks,
                        "physical_block_size": facts.capacity.physical_block_size,
                        "thin": facts.capacity.provisioned,
                        "unmapped_reads_zero": facts.capacity.unmapped_reads_zero,
                        "write_protected": facts.write_protected,
                        "write_cache": facts.write_cache,
                        "fua": facts.dpofua,
                    },
                    "limits": asdict(limits),
                    "session": {
                        "target": session.target_name,
                        "portal": str(session.portal) if session.portal else "",
                        "initiator_name": session.initiator_name,
                        "isid": isid_text(session.isid),
                        "tsih": session.tsih,
                        "authentication": _authentication(how["chap"]),
                    },
                    "keys": session.parameters.as_keys(),
                }

    facts = runner.run(ask, backend=login.backend)
    if invocation.json:
        output.document(facts)
        return
    output.fields(
        {
            title: {name: _value(name, value) for name, value in group.items()}
            for title, group in facts.items()
        }
    )


def _authentication(chap: object) -> str:
    if chap is None:
        return "None"
    return "CHAP, mutual" if getattr(chap, "mutual_secret", None) is not None else "CHAP"


def _value(name: str, value: object) -> str:
    if value is None:
        return "not told"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none known"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value} ({size_text(value)})" if value else "0"
    return str(value)
