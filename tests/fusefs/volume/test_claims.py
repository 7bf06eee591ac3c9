# SPDX-License-Identifier: Apache-2.0
"""Ids of claims come from outside, and the files of a claim go with it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fusefs.errors import OperationInProgress
from fusefs.volume.claims import READY, Claim, Claims, new_claim_id
from fusefs.volume.provision import NoSuchClaim


def claim(name: str) -> Claim:
    return Claim(
        claim_id=new_claim_id(name),
        name=name,
        phase=READY,
        url="iscsi://192.0.2.1/iqn.2026-11.example:pool/1",
        key="unit-1",
        size_bytes=1,
    )


@pytest.mark.parametrize("claim_id", ["../../outside-1", "/outside", "a\0b", "", "x" * 300])
def test_an_id_from_outside_is_no_path(tmp_path: Path, claim_id: str) -> None:
    async def main() -> None:
        claims = Claims(tmp_path / "a" / "claims")
        with pytest.raises(NoSuchClaim):
            async with claims.working_on(claim_id):
                pass

    anyio.run(main)
    assert [path for path in tmp_path.rglob("*") if "outside" in path.name] == []


def test_the_lock_goes_with_the_claim_and_keeps_its_meaning(tmp_path: Path) -> None:
    async def main() -> None:
        claims = Claims(tmp_path)
        one = claim("one")
        claims.prepare()
        claims.write(one)
        async with claims.working_on(one.claim_id):
            with pytest.raises(OperationInProgress):
                async with claims.working_on(one.claim_id):
                    pass
        assert len(list((tmp_path / "claims").iterdir())) == 2
        for _ in range(2):
            async with claims.working_on(one.claim_id):
                claims.remove(one)
                with pytest.raises(OperationInProgress):
                    async with claims.working_on(one.claim_id):
                        pass
            assert list((tmp_path / "claims").iterdir()) == []

    anyio.run(main)


def test_what_was_cut_off_is_cleared_by_who_decides_next(tmp_path: Path) -> None:
    async def main() -> None:
        claims = Claims(tmp_path)
        claims.prepare()
        one = claims.write(claim("one"))
        files = tmp_path / "claims"
        nobody = 1 << 22  # more than any process has
        for name in (f".a.json.{nobody}.new", "b.lock"):
            (files / name).touch()
        (tmp_path / "quarantine" / f".c.json.{nobody}.new").touch()
        async with claims.working_on(one.claim_id), claims.deciding():
            pass
        assert {path.suffix for path in files.iterdir()} == {".json", ".lock"}
        assert len(list(files.iterdir())) == 2
        assert list((tmp_path / "quarantine").iterdir()) == []

    anyio.run(main)
