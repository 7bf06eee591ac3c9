# SPDX-License-Identifier: Apache-2.0
"""Definitions that cannot be used: told once, by the name of the volume, with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusefs.errors import VolumeError
from fusefs.spec import VolumeSpec
from fusefs.volume.catalog import Catalog, Definition
from tests.support.logs import ExpectLogs


def test_what_cannot_be_used_is_told_apart(tmp_path: Path, expect_logs: ExpectLogs) -> None:
    expect_logs("cannot be used", at_least=2)
    expect_logs("cannot be read")
    catalog = Catalog(tmp_path)
    for name in ("good", "a/b"):
        spec = VolumeSpec(name=name, url="iscsi://192.0.2.7/iqn.2026-01.com.example:d/1")
        catalog.save(Definition(spec=spec, created_at="2026-01-01T00:00:00Z", owner="test"))
    newer = catalog.path("a/b").read_text().replace('"version": 1', '"version": 2')
    catalog.path("a/b").write_text(newer)
    catalog.path("c/d").write_text("{")
    catalog.path("none").mkdir()
    assert [each.name for each in catalog.all()] == ["good"]
    for _ in range(2):
        why = catalog.unusable()
    assert set(why) == {"a/b", "c/d", "none"}
    assert "run the version that wrote it" in why["a/b"]
    assert "forget c/d --definition" in why["c/d"]
    # What may be read in a moment is not to be given up.
    assert why["none"].endswith("none.json: Is a directory")
    with pytest.raises(VolumeError, match="version 2"):
        catalog.load("a/b")
