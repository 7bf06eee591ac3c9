# SPDX-License-Identifier: Apache-2.0
"""What people do with volumes every day: Docker, docker-compose and Podman, on tgt.

A session is logged in at the first use and out after the last, which is looked up at the target.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.docker.everyday import Everyday
from tests.support import images
from tests.support.compose import Compose
from tests.support.dockerd import PLUGIN, DockerError
from tests.support.podman import Podman
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]


def inspected(docker: Everyday, name: str) -> dict[str, object]:
    found = json.loads(docker.engine.docker("volume", "inspect", name))[0]
    assert isinstance(found, dict)
    return found


def test_create_run_ls_inspect_rm(docker: Everyday) -> None:
    name = docker.volume()
    assert docker.sessions(name) == []
    assert docker.run("-v", f"{name}:/data", script="echo kept > /data/x; cat /data/x") == "kept"
    docker.wait_sessions(name, 0)
    docker.start("reader", "-v", f"{name}:/data")
    docker.wait_sessions(name, 1)
    assert docker.engine.docker("exec", "reader", "cat", "/data/x") == "kept\n"

    assert f"{PLUGIN}" in docker.engine.docker("volume", "ls", "--filter", f"name={name}")
    volume = inspected(docker, name)
    assert (volume["Driver"], volume["Scope"]) == (PLUGIN, "global")
    status = volume["Status"]
    assert isinstance(status, dict)
    assert status["state"] == "mounted"
    assert status["session"]["target"].endswith(f":{name}")
    assert list(status["users"].values()) == [1]
    with pytest.raises(DockerError, match="in use"):
        docker.engine.docker("volume", "rm", name)

    docker.remove("reader")
    docker.wait_sessions(name, 0)
    docker.engine.docker("volume", "rm", name)
    assert name not in docker.engine.docker("volume", "ls", "--quiet").split()


def test_two_containers_share_a_volume_and_one_may_only_read(docker: Everyday) -> None:
    name = docker.volume()
    docker.start("writes", "-v", f"{name}:/data")
    docker.start("reads", "-v", f"{name}:/data:ro")
    docker.engine.docker("exec", "writes", "sh", "-c", "echo shared > /data/x")
    assert docker.engine.docker("exec", "reads", "cat", "/data/x") == "shared\n"
    with pytest.raises(DockerError, match="Read-only"):
        docker.engine.docker("exec", "reads", "sh", "-c", "echo no > /data/x")
    assert len(docker.sessions(name)) == 1
    docker.remove("writes")
    assert docker.engine.docker("exec", "reads", "cat", "/data/x") == "shared\n"
    docker.wait_sessions(name, 1)
    docker.remove("reads")
    docker.wait_sessions(name, 0)
    docker.engine.docker("volume", "rm", name)


def test_a_read_only_volume(docker: Everyday) -> None:
    name = docker.volume()
    docker.run("-v", f"{name}:/data", script="echo kept > /data/x")
    docker.engine.docker("volume", "rm", name)
    target = next(t for t in docker.storage.tgt.targets.values() if t.endswith(f":{name}"))
    docker.engine.create_volume(
        f"{name}-ro", portal=docker.storage.tgt.portal, target=target, lun=1, readonly="true"
    )
    mounted = ("-v", f"{name}-ro:/data")
    assert docker.run(*mounted, script="cat /data/x") == "kept"
    told = docker.run(*mounted, script="echo no > /data/x", check=False)
    assert "Read-only" in told
    docker.engine.docker("volume", "rm", f"{name}-ro")


def test_an_image_fills_a_new_volume(docker: Everyday) -> None:
    """Docker copies what the image has at the mount point, before the container starts."""
    name = docker.volume()
    assert "passwd" in docker.run("-v", f"{name}:/etc", script="ls /etc")
    docker.wait_sessions(name, 0)
    docker.engine.docker("volume", "rm", name)


COMPOSE = """\
services:
  one: &service
    image: {image}
    network_mode: none
    init: true
    command: ["/bin/sh", "-c", "echo one > /data/one; exec sleep 1000"]
    volumes: ["data:/data"]
  two:
    <<: *service
    command: ["/bin/sh", "-c", "echo two > /data/two; exec sleep 1000"]
volumes:
  data:
    driver: {driver}
    driver_opts: {options}
"""


def test_compose_up_and_down(docker: Everyday, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    options = {key: str(value) for key, value in docker.options("composed").items()}
    text = COMPOSE.format(image=images.WORKER, driver=PLUGIN, options=json.dumps(options))
    file.write_text(text)
    compose = Compose(docker.engine, file, "project")
    compose("up", "--detach")
    docker.wait_sessions("composed", 1)
    wait_until(
        lambda: compose.exec("one", "ls", "/data").split() == ["lost+found", "one", "two"],
        60,
        "both have written",
    )
    compose("down", "--timeout", "1")
    docker.wait_sessions("composed", 0)
    compose("up", "--detach")
    assert compose.exec("two", "cat", "/data/one") == "one\n"
    compose("down", "--timeout", "1", "--volumes")
    docker.wait_sessions("composed", 0)
    assert "project_data" not in docker.engine.docker("volume", "ls", "--quiet")


def test_podman_with_the_same_socket(docker: Everyday) -> None:
    options = [
        text for key, value in docker.options("podman").items() for text in ("-o", f"{key}={value}")
    ]
    with Podman(docker.engine) as podman:
        podman.import_image(images.worker_archive(), images.WORKER)
        podman.podman("volume", "create", "--driver", PLUGIN, *options, "podman")
        run = ("run", "--network", "none", "-v", "podman:/data")
        podman.podman(*run, "--rm", images.WORKER, "/bin/sh", "-c", "echo kept > /data/x")
        docker.wait_sessions("podman", 0)
        podman.podman(
            *run, "--detach", "--init=false", "--name", "one", images.WORKER, "/bin/sleep", "1000"
        )
        docker.wait_sessions("podman", 1)
        assert podman.podman("exec", "one", "cat", "/data/x") == "kept\n"
        # Docker sees the volume too, and may use it beside Podman: one session, two users.
        assert docker.run("-v", "podman:/data", script="cat /data/x") == "kept"
        docker.wait_sessions("podman", 1)
        assert podman.podman("exec", "one", "cat", "/data/x") == "kept\n"
        told = podman.podman(
            *("volume", "create", "--driver", PLUGIN, "-o", "portal=nowhere", "wrong"), check=False
        )
        assert "option target: is missing" in told
        podman.podman("rm", "--force", "--time", "0", "one")
        docker.wait_sessions("podman", 0)
        podman.podman("volume", "rm", "podman")
    assert "podman" not in docker.engine.docker("volume", "ls", "--quiet").split()
