# SPDX-License-Identifier: Apache-2.0
"""Ten volumes in parallel are made, used and removed again and again, and nothing remains."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.docker.storage import Storage
from tests.support import processes
from tests.support.dockerd import DockerEngine
from tests.support.images import WORKER

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(3600)]

VOLUMES = 10
SHORT = 2
LONG = int(os.environ.get("PYSCSI_INIT_SOAK_CYCLES") or 100)

SCRIPT = """\
set -eu
[ "$(cat /data/count 2>/dev/null || echo 0)" = "$BEFORE" ] || { cat /data/count; exit 3; }
echo $((BEFORE + 1)) > /data/count.new
sync /data/count.new
mv /data/count.new /data/count
"""


@pytest.mark.parametrize("cycles", [SHORT, pytest.param(LONG, marks=pytest.mark.soak)])
def test_create_run_rm(engine: DockerEngine, storage: Storage, cycles: int) -> None:
    """Each cycle finds on the LUN what the one before it has left there."""
    targets = {f"volume{number}": storage.lun(f"volume{number}") for number in range(VOLUMES)}
    engine.docker("volume", "ls")  # the engine has met the plugin
    inside = engine.namespace.processes()
    descriptors = len(processes.open_descriptors(engine.plugin_pid))

    def cycle(name: str, number: int) -> None:
        engine.create_volume(name, **storage.options(targets[name]))
        engine.docker(
            *("run", "--rm", "--network", "none", "--volume", f"{name}:/data"),
            *("--env", f"BEFORE={number}", WORKER, "/bin/sh", "-c", SCRIPT),
            timeout=300,
        )
        engine.docker("volume", "rm", name)

    def cycles_of(name: str) -> None:
        for number in range(cycles):
            cycle(name, number)

    begun = time.monotonic()
    with ThreadPoolExecutor(VOLUMES) as pool:
        for done in [pool.submit(cycles_of, name) for name in targets]:
            done.result()
    seconds = time.monotonic() - begun
    print(f"\n{cycles} cycles of {VOLUMES} volumes: {seconds:.0f} s")  # noqa: T201  (for people)
    storage.check_all_is_gone(engine)
    assert engine.docker("volume", "ls", "--quiet").split() == []
    assert engine.namespace.processes() <= inside, engine.namespace.processes() - inside
    # What a connection of dockerd or a thread pool has open at this moment may differ a little.
    assert len(processes.open_descriptors(engine.plugin_pid)) <= descriptors + 10
    files = [p for p in (engine.directory / "state").rglob("*") if p.is_file()]
    about_volumes = [p for p in files if "volume" in p.name or "volume" in p.read_text("latin-1")]
    assert not about_volumes, about_volumes
