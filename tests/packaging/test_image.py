# SPDX-License-Identifier: Apache-2.0
"""The container image in a Docker Engine: loaded, and mounting a LUN for itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.images.image import Image
from tests.support import built
from tests.support.dockerd import DockerEngine
from tests.support.filesystems import fsck_is_clean, make_filesystem
from tests.support.pods import PRIVILEGED
from tests.support.tgt import TgtServer

IQN = "iqn.2026-01.org.example:image"
WAIT = "import signal; signal.pause()"
RIGHTS = (*PRIVILEGED, "--volume=/dev:/dev", "--network=host")

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module")
def image(directory: Path) -> Image:
    return built.image_archive(directory)


@pytest.fixture(scope="module")
def engine(directory: Path, image: Image) -> Iterator[DockerEngine]:
    with DockerEngine(directory, plugin=False) as running:
        running.docker("load", "--input", str(image.archive))
        yield running


def test_its_name_and_its_identity(engine: DockerEngine, image: Image) -> None:
    """The digest of the archive is the image's, so it is what any engine makes of it."""
    (found,) = json.loads(engine.docker("image", "inspect", image.name))
    assert found["Id"] == image.digest
    assert found["Config"]["Entrypoint"] == ["/usr/bin/pyscsi-init"]


def test_the_command_runs_without_any_right(engine: DockerEngine, image: Image) -> None:
    """Read-only, without network, without a capability."""
    bare = ("--rm", "--read-only", "--network=none", "--cap-drop=ALL", "--user=65534")
    assert "pyscsi-init" in engine.docker("run", *bare, image.name, "--version")
    assert "--docker" in engine.docker("run", *bare, image.name, "serve", "--help")


def test_doctor_finds_nothing_missing(engine: DockerEngine, image: Image) -> None:
    findings = json.loads(engine.docker("run", "--rm", *RIGHTS, image.name, "doctor", "--json"))
    assert not [each for each in findings if each["level"] == "missing"]


def found_by_doctor(engine: DockerEngine, image: Image, *rights: str) -> dict[str, str]:
    """What doctor does not find in order in a container, and what it says of it."""
    text = engine.docker("run", "--rm", *rights, image.name, "doctor", "--json", check=False)
    findings = json.loads(text[text.index("[") : text.rindex("]") + 1])
    return {one["what"]: f"{one['found']}; {one['remedy']}" for one in findings if one["remedy"]}


def test_doctor_tells_devices_that_are_there_and_refused(
    engine: DockerEngine, image: Image
) -> None:
    """The nodes of the host are all there, and the container's device group admits none."""
    rights = [text for text in RIGHTS if "device-cgroup-rule" not in text]
    found = found_by_doctor(engine, image, *rights)
    for what, device in (("/dev/fuse", "/dev/fuse"), ("loop devices", "/dev/loop-control")):
        assert f"{device} is there and cannot be opened: Operation not permitted" in found[what]
        assert f"docker run --device {device}" in found[what]


def test_doctor_tells_a_dev_in_which_no_loop_device_will_appear(
    engine: DockerEngine, image: Image
) -> None:
    """Each device by name, as the remedy above has it."""
    devices = [f"--device=/dev/{name}" for name in ("fuse", "loop-control", "loop0")]
    found = found_by_doctor(engine, image, "--cap-add=SYS_ADMIN", *devices)
    assert "/dev/fuse" not in found
    assert "new ones do not appear in this /dev" in found["loop devices"]


def test_doctor_tells_a_container_that_may_not_mount(engine: DockerEngine, image: Image) -> None:
    found = found_by_doctor(engine, image)
    assert "privileged: true" in found["CAP_SYS_ADMIN"]


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_a_container_mounts_a_lun(
    engine: DockerEngine, image: Image, tmp_path: Path, fstype: str
) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(320 << 20)
    make_filesystem(fstype, disk)
    with TgtServer() as tgt:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, disk)
        python = ("--init", "--entrypoint=/usr/bin/python3")
        engine.docker("run", "--detach", "--name=mounter", *RIGHTS, *python, image.name, "-c", WAIT)
        try:
            url = f"iscsi://{tgt.portal}/{IQN}/1"
            engine.docker("exec", "mounter", "pyscsi-init", "mount", url, "/mnt", "--name", "v")
            write = "import pathlib; pathlib.Path('/mnt/file').write_text('written inside')"
            engine.docker("exec", "mounter", "python3", "-c", write)
            assert len(tgt.sessions()) == 1
            engine.docker("exec", "mounter", "pyscsi-init", "umount", "v")
            tgt.wait_sessions(0)
        finally:
            engine.docker("rm", "--force", "--volumes", "mounter")
    fsck_is_clean(fstype, disk)
    assert b"written inside" in disk.read_bytes()
