# SPDX-License-Identifier: Apache-2.0
"""Volumes whose sessions are in a network of their own, through the manager, CSI and Docker.

Two targets have one address in two namespaces. So a process that logs in anywhere else than it
should finds nobody, or another disk.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.errors import AlreadyAttached
from tests.e2e.conftest import Volumes
from tests.e2e.victims import serving_worker
from tests.support.csi_driver import Driver, Kubelet, assert_nothing_left, end_all
from tests.support.direct_io import Background, until
from tests.support.lonely_target import ADDRESS, LonelyTarget
from tests.support.plugin import Plugin

pytestmark = [pytest.mark.root, pytest.mark.tgt]

IQN = "iqn.2026-11.example:same"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LonelyTarget]:
    with LonelyTarget("one", tmp_path_factory.mktemp("one"), iqn=IQN) as target:
        yield target


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LonelyTarget]:
    with LonelyTarget("other", tmp_path_factory.mktemp("other"), iqn=IQN) as target:
        yield target


def in_network_of(target: LonelyTarget) -> dict[str, object]:
    return {"settings": {"network_namespace": target.namespace.name}}


def written(file: Path, text: str) -> None:
    """Written and on the target."""
    with file.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


def read_from_the_target(file: Path) -> str:
    """Its content, whatever the page cache holds."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)


def networks_of(pid: int) -> set[str]:
    return {
        os.readlink(f"/proc/{pid}/task/{task}/ns/net") for task in os.listdir(f"/proc/{pid}/task")
    }


def test_each_volume_comes_back_in_its_own_network(tmp_path: Path, volumes: Volumes) -> None:
    """After the death of its worker, of its target, of its namespace, and after an upgrade."""
    with (
        LonelyTarget("one", tmp_path, iqn=IQN) as one,
        LonelyTarget("other", tmp_path, iqn=IQN) as other,
    ):
        coming_back(one, other, volumes)


def coming_back(one: LonelyTarget, other: LonelyTarget, volumes: Volumes) -> None:
    places = {}
    for name, target in (("one", one), ("other", other)):
        made = volumes.mount(target.url, name=name, format_if_blank=True, **in_network_of(target))
        places[name] = Path(made.mountpoint) / "file"
        written(places[name], f"this is {name}")

    def check() -> None:
        for name, target in (("one", one), ("other", other)):
            assert read_from_the_target(places[name]).startswith(f"this is {name}")
            written(places[name], f"this is {name} still")
            assert len(target.tgt.sessions()) == 1
            session = volumes.get(name).session
            assert session["network_namespace"] == target.namespace.name
            assert networks_of(serving_worker(volumes, name)) == networks_of(os.getpid())

    check()
    for name in places:
        pid = serving_worker(volumes, name)
        os.kill(pid, signal.SIGKILL)
        serving_worker(volumes, name, other_than=pid)
    check()
    one.restart()
    check()
    volumes.call(volumes.manager.holder.renew_zygote)
    for name in places:
        volumes.call(volumes.manager.upgrade, name)
    check()

    other.go()
    waiting = Background(written, places["other"], "this is other, and waited")
    until(lambda: volumes.get("other").state == "recovering", PATIENCE_S)
    until(lambda: "there is none" in volumes.get("other").last_error, PATIENCE_S)
    # A worker that never saw the namespace finds it too.
    os.kill(volumes.get("other").worker_pid or 0, signal.SIGKILL)
    until(lambda: volumes.get("other").restarts == 2, PATIENCE_S)
    assert waiting.running
    other.come_back()
    waiting.join(PATIENCE_S)
    check()
    for name in places:
        assert volumes.umount(name).clean


def test_one_disk_in_two_networks_is_still_one(one: LonelyTarget, volumes: Volumes) -> None:
    """By name and by path: the address could be two targets', the unit says that it is not."""
    volumes.attach(one.url, name="by-name", **in_network_of(one))
    with pytest.raises(AlreadyAttached):
        volumes.attach(
            one.url, name="by-path", settings={"network_namespace": str(one.namespace.path)}
        )
    assert volumes.detach("by-name").clean


# -- CSI ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with Driver(tmp_path_factory.mktemp("csi")) as running:
        yield running
        end_all(running)


def context(target: LonelyTarget, **more: str) -> dict[str, str]:
    return {"targetPortal": ADDRESS, "iqn": target.iqn, "lun": "1", **more}


def test_a_persistent_volume_names_its_network(
    one: LonelyTarget, other: LonelyTarget, driver: Driver
) -> None:
    volumes = {}
    for target in (one, other):
        name = target.namespace.name
        volume = volumes[name] = Kubelet(driver, name, context(target, networkNamespace=name))
        volume.stage()
        (volume.publish("pod") / "csi").write_text(name)
    for target in (one, other):
        name = target.namespace.name
        assert len(target.tgt.sessions()) == 1
        assert (volumes[name].target("pod") / "csi").read_text() == name
        volumes[name].unpublish("pod")
        volumes[name].unstage()
        target.tgt.wait_sessions(0, timeout=20)
    assert_nothing_left(driver)


def test_networks_that_csi_refuses(one: LonelyTarget, driver: Driver) -> None:
    name = one.namespace.name
    for more, code, text in (
        ({"networkNamespace": "none-such"}, "UNAVAILABLE", "'none-such': there is none"),
        ({"networkNamespace": name, "networkInterface": "eth7"}, "UNAVAILABLE", "no such interf"),
        ({"networkNamespace": f"/run/netns/{name}"}, "INVALID_ARGUMENT", "is a path of the node"),
        ({"networkInterface": "a b"}, "INVALID_ARGUMENT", "is not the name of an interface"),
    ):
        volume = Kubelet(driver, "refused", context(one, **more))
        found = driver.client.refusal("NodeStageVolume", volume.stage_request())
        assert found[0] == code, found
        assert text in found[1]
    for more in ({"networkNamespace": name}, {"networkInterface": "lo"}):
        inline = {"csi.storage.k8s.io/ephemeral": "true"}
        volume = Kubelet(driver, "inline", context(one, **more) | inline)
        found = driver.client.refusal("NodePublishVolume", volume.publish_request("pod"))
        assert found[0] == "INVALID_ARGUMENT", found
        assert "the author of a pod may not; use a PersistentVolume" in found[1]
    assert_nothing_left(driver)
    assert one.tgt.sessions() == []


# -- Docker ---------------------------------------------------------------------------------------


def test_an_option_of_docker_volume_create(
    one: LonelyTarget, other: LonelyTarget, tmp_path: Path
) -> None:
    options = {"portal": ADDRESS, "target": IQN, "lun": "1", "mkfs": "true"}
    with Plugin(tmp_path) as plugin:
        said = plugin.refused(
            "Create", Name="bad", Opts={**options, "network_interface": "much-too-long-a-name"}
        )
        assert "option network_interface 'much-too-long-a-name': is not the name" in said
        for name, more in (
            ("one", {"network_namespace": one.namespace.name}),
            ("other", {"network_namespace": str(other.namespace.path), "network_interface": "lo"}),
        ):
            plugin.call("Create", Name=name, Opts={**options, **more})
            place = Path(plugin.call("Mount", Name=name, ID="c")["Mountpoint"])
            written(place / "docker", name)
            assert plugin.status(name)["network_namespace"] == more["network_namespace"]
        assert len(one.tgt.sessions()) == len(other.tgt.sessions()) == 1
        for name in ("one", "other"):
            place = Path(plugin.call("Path", Name=name)["Mountpoint"])
            assert (place / "docker").read_text() == name
            plugin.call("Unmount", Name=name, ID="c")
            plugin.call("Remove", Name=name)
