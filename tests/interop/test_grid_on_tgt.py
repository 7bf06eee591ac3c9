# SPDX-License-Identifier: Apache-2.0
"""Every way to negotiate and to send data, against a real tgt; somebody else judges the wire.

Facts of tgt: MaxRecvDataSegmentLength is never declared, so 8192 holds for what we send; digests
have to be allowed, and then CRC32C is chosen wherever in our list it stands; CHAP algorithms are 5
and 7, and by 7 it means SHA1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Chap, Secret
from pyscsi_init.errors import LoginRejected, ProtocolError, TargetAuthenticationFailed
from pyscsi_init.login import chap as chap_module
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
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.tgt, pytest.mark.root, pytest.mark.anyio, pytest.mark.one_loop]

SIZE = 16 << 20
LUNS = {512: 1, 4096: 2}


@dataclass
class Served:
    """The server of this module, and its targets by name."""

    tgt: TgtServer
    tids: dict[str, int] = field(default_factory=dict)

    def url(self, target: str, block_size: int = 512) -> str:
        return self.tgt.url(self.tids[target], LUNS[block_size])

    def add(self, name: str, directory: Path) -> int:
        """A target with a disk for each block size."""
        self.tids[name] = tid = self.tgt.new_target(f"iqn.2026-11.example:{name}")
        for block_size, lun in LUNS.items():
            path = directory / f"{name}{block_size}"
            self.tgt.add_lun(tid, lun, path, size_bytes=SIZE, block_size=block_size)
        return tid

    def set(self, name: str, side: TargetSide) -> None:
        """What the target answers with."""
        self.tgt.allow_digests(self.tids[name])
        self.tgt.set_param(self.tids[name], "DefaultTime2Wait", 0)
        for key, value in side.keys().items():
            self.tgt.set_param(self.tids[name], key, value)


def expected(cell: Cell) -> dict[str, object]:
    """The RFC's results, with tgt's ways."""
    return cell.expected() | {
        "target_max_recv_data_segment_length": 8192,
        "header_digest": "CRC32C" in cell.header_digest,
        "data_digest": "CRC32C" in cell.data_digest,
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("disks")
    with TgtServer() as tgt:
        made = Served(tgt)
        for name, side in TARGETS.items():
            made.add(name, directory)
            made.set(name, side)
        made.add("plain", directory)
        tgt.require_chap(made.add("one-way", directory), USER, SECRET)
        tid = made.add("mutual", directory)
        tgt.require_chap(tid, f"{USER}2", SECRET)
        tgt.require_chap(tid, TARGET_USER, TARGET_SECRET, outgoing=True)
        yield made


@pytest.fixture(scope="module")
def capture(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Capture]:
    path = tmp_path_factory.mktemp("wire") / "pcap"
    with Capture(path, interface="lo", port=served.tgt.port) as running:
        yield running


@pytest.mark.parametrize("cell", covering(), ids=str)
async def test_cell(
    served: Served,
    capture: Capture,
    cell: Cell,
    record_property: Callable[[str, object], None],
) -> None:
    record_property(CELLS, "tgt")
    await run_cell(served.url(cell.target, cell.block_size), cell, expected(cell))


async def test_a_target_without_digests(served: Served, capture: Capture) -> None:
    """It answers None, which was not offered."""
    url = served.url("plain")
    await digests_that_the_target_lacks(url, ProtocolError, r"(Header|Data)Digest='None'")


@pytest.mark.parametrize("mutual", [False, True], ids=["one-way", "mutual"])
async def test_chap_with_md5(
    served: Served,
    capture: Capture,
    mutual: bool,
    record_property: Callable[[str, object], None],
) -> None:
    record_property(CELLS, "tgt, CHAP")
    chap = credentials(5, mutual=mutual, user=f"{USER}2" if mutual else USER)
    async with pyscsi_init.open_lun(
        served.url("mutual" if mutual else "one-way"), chap=chap
    ) as lun:
        assert chap_algorithm(lun) == 5
        assert len(await lun.read(0, 512)) == 512


@pytest.mark.parametrize("mutual", [False, True], ids=["one-way", "mutual"])
async def test_chap_with_what_tgt_means_by_7(
    served: Served,
    capture: Capture,
    mutual: bool,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With SHA1 under this number tgt is content, both ways: nothing but the number's meaning
    keeps it and us from 7."""
    record_property(CELLS, "tgt, CHAP")
    sha1 = chap_module.ALGORITHMS[6]
    monkeypatch.setitem(chap_module.ALGORITHMS, 7, sha1)
    chap = credentials(7, mutual=mutual, user=f"{USER}2" if mutual else USER)
    async with pyscsi_init.open_lun(
        served.url("mutual" if mutual else "one-way"), chap=chap
    ) as lun:
        assert chap_algorithm(lun) == 7
        assert len(await lun.read(0, 512)) == 512


@pytest.mark.parametrize("algorithms", [(6,), (8,), (7, 5), (8, 7, 6, 5)], ids=str)
async def test_chap_algorithms_that_tgt_lacks(
    served: Served,
    capture: Capture,
    algorithms: tuple[int, ...],
    record_property: Callable[[str, object], None],
) -> None:
    """MD5 is offered behind each (RFC 7143 12.1.3), and is what it comes to."""
    record_property(CELLS, "tgt, CHAP")
    async with pyscsi_init.open_lun(served.url("one-way"), chap=credentials(*algorithms)) as lun:
        assert chap_algorithm(lun) == 5


async def test_the_reason_is_told_where_7_is_all_we_want(served: Served, capture: Capture) -> None:
    with pytest.raises(LoginRejected, match="SHA1: offer algorithm 5"):
        async with pyscsi_init.open_lun(served.url("one-way"), chap=credentials(7)):
            pass


@pytest.mark.parametrize("wrong", ["ours", "theirs"])
async def test_a_wrong_secret_is_refused(served: Served, capture: Capture, wrong: str) -> None:
    secrets = {"ours": SECRET, "theirs": TARGET_SECRET} | {wrong: "another-secret-99"}
    chap = Chap(
        user=f"{USER}2",
        secret=Secret(secrets["ours"]),
        mutual_secret=Secret(secrets["theirs"]),
    )
    error = LoginRejected if wrong == "ours" else TargetAuthenticationFailed
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
    record_property(CELLS, "tgt, restarted")
    with TgtServer() as tgt:
        served = Served(tgt)
        served.add(cell.target, tmp_path)
        served.set(cell.target, TARGETS[cell.target])
        url = served.url(cell.target, cell.block_size)
        await restart_under_load(url, cell, tgt.restart, expected(cell))


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
    record_property(CELLS, f"tgt, every cell: {len(cells)}")
    for cell in cells:
        await run_cell(served.url(target, block_size), cell, expected(cell))
