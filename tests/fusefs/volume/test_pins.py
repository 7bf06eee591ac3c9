# SPDX-License-Identifier: Apache-2.0
"""Which unit a volume is: pinned at its first use, compared ever after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusefs.spec import VolumeSpec
from fusefs.volume.pins import Pin, check_pin, load_pin, witness_of, write_pin
from fusefs.volume.state import VolumeState
from pyscsi_init.errors import IdentityMismatch
from tests.fusefs.volume.bench import URL, Bench

EXT = "ext.00112233445566778899aabbccddeeff"


def state(**identity: Any) -> VolumeState:
    unit = {
        "name": "naa.1",
        "key": "naa.1|serial",
        "block_size": 512,
        "size_bytes": 1 << 30,
        "witnesses": [EXT],
    }
    spec = VolumeSpec(name="data", url=URL.format("data"))
    facts = {"identity": unit | identity}
    return VolumeState(spec=spec, phase="attaching", boot_id="x", facts=facts)


PIN = Pin("data", "naa.1|serial", "naa.1", 512, 1 << 30, (EXT,))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    assert load_pin(path, "data") is None
    write_pin(path, state(), EXT)
    assert load_pin(path, "data") == PIN
    write_pin(path, state(size_bytes=2 << 30), "")
    assert load_pin(path, "data") == Pin("data", PIN.key, "naa.1", 512, 2 << 30, (EXT,))


@pytest.mark.parametrize(
    "unit",
    [{}, {"size_bytes": 2 << 30}, {"witnesses": ["gpt.1", EXT]}],
    ids=["same", "larger", "more content"],
)
def test_the_same_unit_is_taken(unit: dict[str, Any]) -> None:
    check_pin(PIN, state(**unit), with_content=True)


@pytest.mark.parametrize(
    ("unit", "why"),
    [
        ({"key": "naa.2|serial", "name": "naa.2"}, "it was naa.1, and naa.2 answers"),
        ({"block_size": 4096}, "block size was 512, and is 4096"),
        ({"size_bytes": 1 << 29}, "has 536870912"),
        ({"witnesses": ["xfs.1"]}, "holds xfs.1"),
        ({"witnesses": []}, "holds nothing that is known"),
    ],
)
def test_another_unit_is_refused_with_the_remedy(unit: dict[str, Any], why: str) -> None:
    with pytest.raises(IdentityMismatch, match=why) as caught:
        check_pin(PIN, state(**unit), with_content=True)
    assert "pyscsi-init forget data" in str(caught.value)


def test_the_content_of_a_volume_that_is_only_attached_is_its_users() -> None:
    check_pin(PIN, state(witnesses=[]), with_content=False)


def test_a_file_that_cannot_be_read_says_no(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("{}")
    with pytest.raises(IdentityMismatch, match="forget data"):
        load_pin(path, "data")


def test_a_filesystem_bears_witness_as_the_initiator_writes_it() -> None:
    assert witness_of("ext4", "00112233-4455-6677-8899-AABBCCDDEEFF") == EXT
    assert witness_of("vfat", "1234-ABCD") == ""


@pytest.mark.anyio
@pytest.mark.one_loop
async def test_another_unit_under_a_name_is_not_attached(bench: Bench) -> None:
    name = "data-unit-1"
    spec = bench.spec(name)
    await bench.manager.attach(spec)
    await bench.manager.detach(name)
    pin = bench.base / "state" / "identities" / f"{name}.json"
    pin.write_text(pin.read_text().replace('"key": "unit-1"', '"key": "unit-2"'))
    with pytest.raises(IdentityMismatch):
        await bench.manager.attach(spec)
    bench.assert_nothing_left()
    assert await bench.manager.forget(name)
    await bench.manager.attach(spec)
    await bench.manager.detach(name)


@pytest.mark.anyio
@pytest.mark.one_loop
async def test_what_was_refused_is_not_pinned(bench: Bench) -> None:
    name = "data-unit-1"
    with pytest.raises(Exception, match="holds no filesystem"):
        await bench.manager.mount(bench.spec(name), bench.mountpoint)
    assert list((bench.base / "state" / "identities").iterdir()) == []
