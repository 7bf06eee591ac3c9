# SPDX-License-Identifier: Apache-2.0
"""A full disk below the driver, a target that has forgotten, files that are gone: each call says
so, does nothing by halves, and succeeds when it is made again afterwards.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.csi.wire import csi_pb2 as csi
from tests.e2e.test_csi_provisioned_on_tgt import MEBI, Made, made
from tests.support.csi_driver import Kubelet, mounted_below

__all__ = ["made"]

pytestmark = [pytest.mark.root, pytest.mark.tgt]


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 64 KiB; yields the file that fills it, which is not there yet."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(directory)], check=True
    )
    try:
        yield directory / "filler"
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while True:
            opened.write(bytes(4096))


def test_a_full_disk_under_the_claims(made: Made, tmp_path: Path) -> None:
    tid = made.tgt.new_target("iqn.2026-11.example:pool")
    made.tgt.add_lun(tid, 1, tmp_path / "unit", size_bytes=16 * MEBI)
    pool = {"provisioner": "pool", "pool": made.tgt.url(tid)}
    with small_disk(made.driver.state_dir / "provisioned/pool/claims") as filler:
        fill(filler)
        code, text = made.refusal("one", pool)
        assert (code, "make room there" in text) == ("RESOURCE_EXHAUSTED", True), text
        filler.unlink()
        volume = made.create("one", pool)
        (tmp_path / "unit").write_bytes(b"words".ljust(16 * MEBI))
        fill(filler)
        code, text = made.delete(volume)
        assert (code, "make room there" in text) == ("RESOURCE_EXHAUSTED", True), text
        assert made.listed() == [volume.volume_id]
        assert b"words" in (tmp_path / "unit").read_bytes()
        filler.unlink()
        assert made.delete(volume) == ("OK", "")
        assert list(filler.parent.glob(".*")) == []
    assert not any((tmp_path / "unit").read_bytes())


def test_a_full_disk_under_the_state_of_volumes(made: Made, tmp_path: Path) -> None:
    iqn = "iqn.2026-11.example:disk"
    tid = made.tgt.new_target(iqn)
    made.tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=64 * MEBI)
    context = {"targetPortal": made.tgt.portal, "iqn": iqn, "lun": "1"}
    volume = Kubelet(made.driver, "vol-1", context)
    calls = [
        ("NodeStageVolume", volume.stage_request()),
        ("NodePublishVolume", volume.publish_request("pod")),
        ("NodeUnpublishVolume", volume.unpublish_request("pod")),
        ("NodeUnstageVolume", volume.unstage_request()),
    ]
    with small_disk(made.driver.run_dir / "volumes") as filler:
        for method, request in calls:
            fill(filler)
            code, text = made.driver.client.refusal(method, request)
            wanted = ("RESOURCE_EXHAUSTED", True)
            if method == "NodeUnstageVolume":  # the last end needs no room
                wanted = ("OK", False)
            assert (code, "make room there" in text) == wanted, (method, text)
            filler.unlink()
            assert volume.target("pod").exists() == (method == "NodeUnpublishVolume")
            if method == "NodeStageVolume":
                assert mounted_below(volume.root) == []
                assert list(filler.parent.iterdir()) == []
                made.tgt.wait_sessions(0)
            made.driver.client.call(method, request)
        assert list(filler.parent.iterdir()) == []
    made.tgt.wait_sessions(0)


def test_a_tgt_that_forgot_and_files_that_are_gone(made: Made, tmp_path: Path) -> None:
    directory, other = tmp_path / "backing", tmp_path / "other"
    directory.mkdir()
    other.mkdir()
    tgt = {
        "provisioner": "tgt",
        "tgtControlPort": "1",
        "tgtDirectory": str(directory),
        "targetPortal": made.tgt.portal,
    }
    volume = made.create("one", tgt, 16 * MEBI)
    (backing,) = directory.iterdir()
    backing.write_bytes(b"words".ljust(16 * MEBI))
    forget = ("--op", "delete", "--mode", "target", "--tid", "1")
    expand = csi.ControllerExpandVolumeRequest(
        volume_id=volume.volume_id, capacity_range=csi.CapacityRange(required_bytes=24 * MEBI)
    )
    made.tgt._run(*forget)
    assert made.driver.client.call("ControllerExpandVolume", expand).capacity_bytes == 24 * MEBI
    assert backing.read_bytes().startswith(b"words")
    assert volume.volume_context["iqn"] in made.tgt._run("--op", "show", "--mode", "target")
    made.tgt._run(*forget)
    backing.rename(other / "away")
    for _ in range(2):
        code, text = made.refusal("one", tgt, 16 * MEBI)
        assert (code, f"{backing} of volume 'one' is not there" in text) == (
            "FAILED_PRECONDITION",
            True,
        )
        expand.capacity_range.required_bytes = 32 * MEBI
        assert made.driver.client.code("ControllerExpandVolume", expand) == "FAILED_PRECONDITION"
        assert list(directory.iterdir()) == []
    (other / "away").rename(backing)
    assert made.create("one", tgt, 16 * MEBI).volume_id == volume.volume_id
    assert backing.read_bytes().startswith(b"words")
    # What is promised in one directory takes no room in another one.
    ask = csi.GetCapacityRequest(parameters={**tgt, "tgtDirectory": str(other)})
    with small_disk(other):
        before = made.driver.client.call("GetCapacity", ask).available_capacity
        assert 0 < before <= 65536
    assert made.delete(volume) == ("OK", "")
    assert list(directory.iterdir()) == []


def test_a_deletion_that_was_cut_off_ends_where_the_volume_was(made: Made, tmp_path: Path) -> None:
    """Also when the same name comes again with another directory."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    tgt = {"provisioner": "tgt", "tgtControlPort": "1", "targetPortal": made.tgt.portal}
    old = made.create("one", {**tgt, "tgtDirectory": str(first)}, 16 * MEBI)
    (claim,) = (made.driver.state_dir / "provisioned/tgt/claims").glob("*.json")
    document = json.loads(claim.read_text())
    claim.write_text(json.dumps({**document, "phase": "releasing"}))
    new = made.create("one", {**tgt, "tgtDirectory": str(second)}, 16 * MEBI)
    assert list(first.iterdir()) == []
    assert len(list(second.iterdir())) == 1
    assert made.listed() == [new.volume_id] != [old.volume_id]
    assert made.tgt._run("--op", "show", "--mode", "target").count("Target ") == 1
    assert made.delete(new) == ("OK", "")


def test_a_unit_that_a_node_has_is_neither_wiped_nor_lent(made: Made, tmp_path: Path) -> None:
    """tgt lets WRITE SAME pass by a reservation, so a look comes first."""
    tid = made.tgt.new_target("iqn.2026-11.example:pool")
    unit = tmp_path / "unit"
    made.tgt.add_lun(tid, 1, unit, size_bytes=64 * MEBI)
    pool = {"provisioner": "pool", "pool": made.tgt.url(tid)}
    context = {"targetPortal": made.tgt.portal, "iqn": made.tgt.targets[tid], "lun": "1"}
    static = Kubelet(made.driver, "static", context, block=True)
    static.stage()
    code, text = made.refusal("one", pool)
    assert (code, "is registered by a node" in text) == ("RESOURCE_EXHAUSTED", True), text
    static.unstage()

    volume = made.create("one", pool)
    pod = made.kubelet(volume)
    pod.stage()
    file = pod.publish("pod") / "file"
    file.write_bytes(b"words" * 1000)
    subprocess.run(["sync", str(file)], check=True)
    for _ in range(2):
        code, text = made.delete(volume)
        assert (code, "unstage it there" in text) == ("FAILED_PRECONDITION", True), text
        assert b"words" * 800 in unit.read_bytes()
    pod.unpublish("pod")
    pod.unstage()
    assert made.delete(volume) == ("OK", "")
    assert not any(unit.read_bytes())
