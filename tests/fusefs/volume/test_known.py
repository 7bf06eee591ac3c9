# SPDX-License-Identifier: Apache-2.0
"""Volumes known by name and their users, over a fake host: counts, ends, deaths."""

from __future__ import annotations

import pytest

from fusefs.volume.known import KnownVolumes
from tests.fusefs.volume.bench import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.fixture
def known(bench: Bench) -> KnownVolumes:
    return KnownVolumes(bench.manager, patience_s=0)


async def defined(known: KnownVolumes, bench: Bench, name: str = "data", **changes: object) -> None:
    await known.define(bench.spec(name, **changes), owner="test")
    bench.format(name)


def mounted(bench: Bench, name: str = "data") -> list[str]:
    place = str(bench.base / "state" / "mounts" / name)
    return [entry.fstype for entry in bench.host.mounts() if entry.mountpoint == place]


async def test_the_first_use_brings_it_up_and_the_last_release_takes_it_down(
    known: KnownVolumes, bench: Bench
) -> None:
    await defined(known, bench)
    assert (await known.get("data")).status is None
    path = await known.use("data", "one")
    assert path == bench.base / "state" / "mounts" / "data"
    assert mounted(bench) == ["ext4"]
    assert await known.use("data", "two") == path
    assert len(bench.workers) == 1
    await known.release("data", "one")
    assert mounted(bench) == ["ext4"]
    found = await known.get("data")
    assert (found.users, found.mountpoint) == ({"two": 1}, str(path))
    await known.release("data", "two")
    assert not path.exists()
    assert (await known.get("data")).mountpoint == ""
    bench.assert_nothing_left()


async def test_a_user_that_comes_twice_has_to_go_twice(known: KnownVolumes, bench: Bench) -> None:
    """As with `docker cp`, which mounts and unmounts under the id of the running container."""
    await defined(known, bench)
    await known.use("data", "one")
    await known.use("data", "one")
    await known.release("data", "one")
    assert (await known.get("data")).users == {"one": 1}
    assert mounted(bench) == ["ext4"]
    await known.release("data", "one")
    await known.release("data", "one")
    bench.assert_nothing_left()


async def test_counts_outlive_the_process(known: KnownVolumes, bench: Bench) -> None:
    await defined(known, bench)
    await known.use("data", "one")
    another = KnownVolumes(bench.another_manager())
    assert (await another.restore()).kept == ["data"]
    assert (await another.get("data")).users == {"one": 1}
    await another.use("data", "one")
    await known.release("data", "one")
    assert mounted(bench) == ["ext4"]
    await known.release("data", "one")
    bench.assert_nothing_left()
