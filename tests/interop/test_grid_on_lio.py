# SPDX-License-Identifier: Apache-2.0
"""Every way to negotiate and to send data, against LIO; somebody else judges the wire.

Facts of LIO: it declares MaxRecvDataSegmentLength, and has all four CHAP algorithms, of which it
takes the first of our list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Chap, Secret
from pyscsi_init.errors import AuthenticationFailed, LoginRejected, TargetAuthenticationFailed
from tests.interop.grid_tests import (
    OPCODES,
    RESTART_CELLS,
    SECRET,
    TARGET_SECRET,
    TARGET_USER,
    USER,
    chap_algorithm,
    credentials,
    digests_that_the_target_lacks,
    restart_under_load,
    run_cell,
)
from tests.support.capture import Capture
from tests.support.cells import CELLS
from tests.support.grid import AXES, TARGETS, Cell, TargetSide, covering, every_cell
from tests.support.lio import PORT, LioServer

pytestmark = [pytest.mark.root, pytest.mark.anyio, pytest.mark.one_loop]

SIZE = 16 << 20
LUNS = {512: 0, 4096: 1}


@dataclass
class Served:
    """A guest, and its targets by name."""

    lio: LioServer
    tids: dict[str, int] = field(default_factory=dict)

    def url(self, target: str, block_size: int = 512) -> str:
        return self.lio.url(self.tids[target], LUNS[block_size])

    def add(self, name: str, directory: Path | None = None) -> int:
        """A target with a disk for each block size; with a directory they survive the guest."""
        self.tids[name] = tid = self.lio.new_target(f"iqn.2026-11.example:{name}")
        for block_size, lun in LUNS.items():
            file = directory / f"{name}{block_size}" if directory else None
            self.lio.add_lun(
                tid,
                lun,
                SIZE,
                backend="file" if file else "memory",
                file=file,
                block_size=block_size,
            )
        return tid

    def set(self, name: str, side: TargetSide) -> None:
        """What the target answers with."""
        keys = side.keys() | {
            "HeaderDigest": "CRC32C,None",
            "DataDigest": "CRC32C,None",
            "DefaultTime2Wait": 0,
            # By this one it means what it declares as MaxRecvDataSegmentLength.
            "MaxXmitDataSegmentLength": side.max_recv_data_segment_length,
        }
        for key, value in keys.items():
            self.lio.set_param(self.tids[name], key, value)
        self.lio.set_attribute(self.tids[name], "default_erl", side.error_recovery_level)


def expected(cell: Cell) -> dict[str, object]:
    """The RFC's results, and what this target declares."""
    declared = TARGETS[cell.target].max_recv_data_segment_length
    return cell.expected() | {"target_max_recv_data_segment_length": declared}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with LioServer() as lio, lio.namespace.entered():
        made = Served(lio)
        for name, side in TARGETS.items():
            made.add(name)
            made.set(name, side)
        made.add("plain")
        made.set("plain", TARGETS["open"])
        for key in ("HeaderDigest", "DataDigest"):
            lio.set_param(made.tids["plain"], key, "None")
        lio.require_chap(made.add("one-way"), USER, SECRET)
        lio.require_chap(
            made.add("mutual"),
            USER,
            SECRET,
            mutual_user=TARGET_USER,
            mutual_secret=TARGET_SECRET,
        )
        yield made


@pytest.fixture(scope="module")
def capture(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Capture]:
    path = tmp_path_factory.mktemp("wire") / "pcap"
    namespace = served.lio.namespace
    with Capture(path, interface="tap0", port=PORT, namespace=namespace) as running:
        yield running


@pytest.mark.parametrize("cell", covering(), ids=str)
async def test_cell(
    served: Served,
    capture: Capture,
    cell: Cell,
    record_property: Callable[[str, object], None],
) -> None:
    record_property(CELLS, "LIO")
    await run_cell(served.url(cell.target, cell.block_size), cell, expected(cell))


async def test_a_target_without_digests(served: Served, capture: Capture) -> None:
    """It refuses the whole login, without a reason."""
    await digests_that_the_target_lacks(served.url("plain"), LoginRejected, "0200h")


@pytest.mark.parametrize("mutual", [False, True], ids=["one-way", "mutual"])
@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
async def test_chap(
    served: Served,
    capture: Capture,
    algorithm: int,
    mutual: bool,
    record_property: Callable[[str, object], None],
) -> None:
    record_property(CELLS, "LIO, CHAP")
    chap = credentials(algorithm, mutual=mutual)
    async with pyscsi_init.open_lun(
        served.url("mutual" if mutual else "one-way"), chap=chap
    ) as lun:
        assert chap_algorithm(lun) == algorithm
        assert len(await lun.read(0, 512)) == 512


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
@pytest.mark.parametrize("wrong", ["ours", "theirs"])
async def test_a_wrong_secret_is_refused(
    served: Served, capture: Capture, wrong: str, algorithm: int
) -> None:
    secrets = {"ours": SECRET, "theirs": TARGET_SECRET} | {wrong: "another-secret-99"}
    chap = Chap(
        user=USER,
        secret=Secret(secrets["ours"]),
        mutual_secret=Secret(secrets["theirs"]),
        algorithms=(algorithm,),
    )
    error = AuthenticationFailed if wrong == "ours" else TargetAuthenticationFailed
    with pytest.raises(error):
        async with pyscsi_init.open_lun(served.url("mutual"), chap=chap):
            pass


async def test_the_wire_of_the_grid_is_clean(served: Served, capture: Capture) -> None:
    """Comes after the cells, which it judges."""
    await anyio.to_thread.run_sync(capture.stop)
    verdict = await anyio.to_thread.run_sync(capture.judge)
    assert verdict.faults == []
    assert set(verdict.opcodes) == OPCODES
    capture.path.unlink()


@pytest.mark.parametrize("cell", RESTART_CELLS, ids=str)
async def test_the_target_restarts_in_the_middle(
    tmp_path: Path, cell: Cell, record_property: Callable[[str, object], None]
) -> None:
    record_property(CELLS, "LIO, restarted")
    with LioServer() as lio, lio.namespace.entered():
        served = Served(lio)
        served.add(cell.target, tmp_path)
        served.set(cell.target, TARGETS[cell.target])
        url = served.url(cell.target, cell.block_size)
        await restart_under_load(url, cell, lio.restart, expected(cell))


@pytest.mark.soak
@pytest.mark.parametrize("block_size", LUNS)
@pytest.mark.parametrize("target", TARGETS)
async def test_every_cell(
    served: Served,
    target: str,
    block_size: int,
    record_property: Callable[[str, object], None],
) -> None:
    cells = every_cell(AXES | {"target": (target,), "block_size": (block_size,)})
    record_property(CELLS, f"LIO, every cell: {len(cells)}")
    for cell in cells:
        await run_cell(served.url(target, block_size), cell, expected(cell))
