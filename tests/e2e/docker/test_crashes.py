# SPDX-License-Identifier: Apache-2.0
"""Every process of ours is killed at once while Docker starts, has, or ends a container: the next
``docker run`` works, with everything on the volume that was acknowledged before."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

from tests.e2e.docker.storage import Storage
from tests.support.dockerd import DockerEngine
from tests.support.images import WORKER
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]

STEP_S = 60.0
ENGINE_S = 200.0
"""dockerd gives up on a plugin that has gone after half a minute, and on an answer after two."""

COUNT = """\
set -eu
echo $(($(cat /data/count 2>/dev/null || echo 0) + 1)) > /data/count.new
sync /data/count.new
mv /data/count.new /data/count
sync
cat /data/count
"""


def phase(engine: DockerEngine) -> str:
    """How far the volume's state file says that it is; empty where there is none."""
    for state in engine.directory.glob("volumes/volumes/*/state.json"):
        try:
            text = state.read_text()
        except OSError:
            return ""
        return text.partition('"phase":')[2].partition('"')[2].partition('"')[0]
    return ""


def run(engine: DockerEngine, script: str, name: str, *options: str) -> subprocess.Popen[bytes]:
    """``docker run`` in the background."""
    return engine.start(
        *("docker", "run", "--name", name, "--network", "none", "--volume", "data:/data"),
        *(*options, WORKER, "/bin/sh", "-c", script),
    )


def at_once_when(condition: Callable[[], bool]) -> None:
    """Return at the moment at which it holds: a step is over in milliseconds."""
    deadline = time.monotonic() + STEP_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def before_the_container(engine: DockerEngine, step: str) -> None:
    """Killed at a step of the way up, at its beginning or a little later."""
    started = run(engine, "true", "starts")
    at_once_when(lambda: phase(engine) == step or started.poll() is not None)
    engine.kill_all_of_ours()
    engine.start_plugin()
    started.wait(ENGINE_S)


def under_the_container(engine: DockerEngine, _step: str) -> None:
    """Killed under a container that uses it, which then is removed."""
    started = run(engine, "touch /data/here; sleep 1000", "starts", "--detach")
    assert started.wait(ENGINE_S) == 0
    engine.kill_all_of_ours()
    engine.start_plugin()


def after_the_container(engine: DockerEngine, step: str) -> None:
    """Killed on the way down."""
    started = run(engine, "true", "starts")
    at_once_when(lambda: phase(engine) == "mounted" or started.poll() is not None)
    at_once_when(lambda: phase(engine) in (step, ""))
    engine.kill_all_of_ours()
    engine.start_plugin()
    started.wait(ENGINE_S)


SHORT = [
    (before_the_container, "attaching"),
    (under_the_container, "mounted"),
    (after_the_container, "detaching"),
]
LONG = [
    (before_the_container, step) for step in ("logging-in", "formatting", "mounting", "mounted")
] + SHORT * 3


@pytest.mark.parametrize("kills", [SHORT, pytest.param(LONG, marks=pytest.mark.soak)])
def test_the_next_run_works(
    engine: DockerEngine, storage: Storage, kills: list[tuple[Callable[..., None], str]]
) -> None:
    storage.volume(engine, "data")
    for number, (kill, step) in enumerate(kills):
        kill(engine, step)
        engine.docker("rm", "--force", "starts", check=False)
        wait_until(lambda: not engine.docker("ps", "-aq").split(), ENGINE_S, "it is removed")
        count = engine.docker(
            *("run", "--rm", "--network", "none", "--volume", "data:/data"),
            *(WORKER, "/bin/sh", "-c", COUNT),
        )
        assert int(count) == number + 1, f"after {kill.__name__} at {step}: {count}"
        storage.check_all_is_gone(engine)
