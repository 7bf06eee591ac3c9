# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes and examples/kubernetes: rendered, held against the schemas, and against what
the driver's own code takes."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from fusefs.cli.app import COMMANDS, cli
from fusefs.csi.calls import Calls
from fusefs.csi.controller import Controller
from fusefs.host.tgtadm import SOCKET_VARIABLE
from fusefs.volume import pool, tgt
from fusefs.volume.pool import PoolProvisioner
from fusefs.volume.tgt import TgtProvisioner
from scripts.images import contents, image
from tests.support import kustomize, requirements
from tests.support.source import ROOT

DEPLOY = ROOT / "deploy/kubernetes"
EXAMPLES = sorted((ROOT / "examples/kubernetes").glob("*.yaml"))
VERSION = "1.33"
DRIVER = "iscsi.pyscsi-init.io"

yaml = pytest.importorskip("yaml", reason="the Python module yaml is not installed")
Object = dict[str, Any]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `kubectl kustomize` makes, in a file."""
    return kustomize.render(DEPLOY, tmp_path_factory.mktemp("rendered") / "all.yaml")


@pytest.fixture(scope="module")
def objects(rendered: Path) -> list[Object]:
    return list(yaml.safe_load_all(rendered.read_text()))


@pytest.fixture(scope="module")
def with_tgt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of an overlay with the component for tgt."""
    overlay = kustomize.overlay(tmp_path_factory.mktemp("overlay"), "tgt")
    return kustomize.render(overlay, tmp_path_factory.mktemp("rendered") / "tgt.yaml")


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for each in of_kind(objects, "DaemonSet", "Deployment"):
        for container in each["spec"]["template"]["spec"]["containers"]:
            yield each["metadata"]["name"], container


def validate(file: Path) -> str:
    """Ask kubernetes-validate; returns what it complains of."""
    requirements.require_module("kubernetes_validate")
    program = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run(
        [program, "-k", VERSION, "--strict", str(file)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_object_is_valid(rendered: Path) -> None:
    assert validate(rendered) == ""


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_is_valid(file: Path) -> None:
    assert validate(file) == ""


def test_inline_volumes_are_there_for_who_asks_for_them_alone(
    tmp_path: Path, objects: list[Object]
) -> None:
    """The component changes this one field of this one object."""
    with_inline = kustomize.render(kustomize.overlay(tmp_path, "inline"), tmp_path / "all.yaml")
    assert validate(with_inline) == ""
    there = list(yaml.safe_load_all(with_inline.read_text()))
    (driver,) = of_kind(there, "CSIDriver")
    assert driver["spec"].pop("volumeLifecycleModes") == ["Persistent", "Ephemeral"]
    (before,) = of_kind(copy.deepcopy(objects), "CSIDriver")
    before["spec"].pop("volumeLifecycleModes")
    assert driver == before
    assert [each for each in there if each["kind"] != "CSIDriver"] == [
        each for each in objects if each["kind"] != "CSIDriver"
    ]


def test_the_component_for_tgt_changes_the_controller_alone(
    with_tgt: Path, objects: list[Object]
) -> None:
    """It gives it tgt's control socket and a place for files, and adds a StorageClass."""
    assert validate(with_tgt) == ""
    there = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    changed = {}
    for each in yaml.safe_load_all(with_tgt.read_text()):
        if there.get(key := (each["kind"], each["metadata"]["name"])) != each:
            changed[key] = each
    controller = changed.pop(("Deployment", "pyscsi-init-controller"))
    (made,) = changed.values()
    assert made["kind"] == "StorageClass"
    test_every_volume_that_is_mounted_is_there_and_used([controller])
    test_mounts_reach_other_pods_from_the_front_door_alone([*objects, controller])
    pod = controller["spec"]["template"]["spec"]
    (driver,) = (each for each in pod["containers"] if each["name"] == "driver")
    paths = {mount["mountPath"]: mount["name"] for mount in driver["volumeMounts"]}
    sources = {each["name"]: each.get("hostPath", {}).get("path") for each in pod["volumes"]}
    directory = made["parameters"]["tgtDirectory"]
    assert sources[paths[directory]] == directory, "one path for the controller and for tgtd"
    (variable,) = driver["env"]
    assert variable["name"] == SOCKET_VARIABLE
    socket = Path(variable["value"])
    assert sources[paths[str(socket.parent)]] == "/run/tgtd"
    assert "tgtadm" in contents.PROGRAMS


def test_a_provisioner_takes_the_parameters_of_each_storage_class(with_tgt: Path) -> None:
    """All but the addresses in them, which are the reader's to write."""
    controller = Controller(
        [PoolProvisioner(Path("/nowhere")), TgtProvisioner(Path("/nowhere"))], Calls()
    )
    readers: dict[str, Any] = {"pool": pool._read_parameters, "tgt": tgt._read_parameters}
    found = set()
    for each in of_kind(list(yaml.safe_load_all(with_tgt.read_text())), "StorageClass"):
        provisioner, own, labels = controller._chosen(each["parameters"])
        found.add(provisioner.name)
        assert readers[provisioner.name](own)
        controller._check(labels, [])
    assert found == set(readers)


def test_an_invalid_object_is_found(rendered: Path, tmp_path: Path) -> None:
    """A misspelt field, which the API server would drop in silence."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(rendered.read_text().replace("attachRequired:", "attachmentRequired:"))
    assert "attachmentRequired" in validate(wrong)


def test_the_driver_is_what_kubelet_has_to_know(objects: list[Object]) -> None:
    from fusefs.csi.identity import DRIVER_NAME

    assert DRIVER_NAME == DRIVER
    (driver,) = of_kind(objects, "CSIDriver")
    assert driver["metadata"]["name"] == DRIVER
    spec = driver["spec"]
    assert (spec["attachRequired"], spec["podInfoOnMount"]) == (False, True)
    assert spec["fsGroupPolicy"] == "ReadWriteOnceWithFSType"
    assert spec["volumeLifecycleModes"] == ["Persistent"]
    (storage_class,) = of_kind(objects, "StorageClass")
    assert storage_class["provisioner"] == DRIVER


def test_the_data_plane_outlives_its_update_and_shares_no_limit(objects: list[Object]) -> None:
    (plane,) = (
        each
        for each in objects
        if each["metadata"]["name"] == "pyscsi-init-data-plane" and each["kind"] == "DaemonSet"
    )
    assert plane["spec"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = plane["spec"]["template"]["spec"]
    assert pod["hostPID"] is True
    (container,) = pod["containers"]
    assert "limits" not in container["resources"]
    # Either would end the pod, and all volumes, for one that is long in coming over.
    assert not {"livenessProbe", "startupProbe"} & container.keys()
    assert "exec" in container["readinessProbe"]
    # A surge needs the old and the new pod on one node.
    assert not any(port.get("hostPort") for port in container.get("ports", []))


def test_mounts_reach_other_pods_from_the_front_door_alone(objects: list[Object]) -> None:
    """And only that container, and the one of the data plane, is privileged."""
    privileged, propagating = set(), set()
    for owner, container in containers(objects):
        if container["securityContext"].get("privileged"):
            privileged.add((owner, container["name"]))
        else:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        kinds = {mount.get("mountPropagation") for mount in container["volumeMounts"]}
        if "Bidirectional" in kinds:
            propagating.add((owner, container["name"]))
    assert propagating == {("pyscsi-init-node", "driver")}
    assert privileged == propagating | {("pyscsi-init-data-plane", "data-plane")}


def test_networks_that_are_made_after_the_pod_are_seen(objects: list[Object]) -> None:
    """The data plane is in the node's network, and is told of its namespaces by name; at work in
    test_daemonsets.py."""
    (plane,) = (
        each["spec"]["template"]["spec"]
        for each in of_kind(objects, "DaemonSet")
        if each["metadata"]["name"] == "pyscsi-init-data-plane"
    )
    assert plane["hostNetwork"] is True
    (mount,) = (m for m in plane["containers"][0]["volumeMounts"] if m["name"] == "netns")
    assert (mount["mountPath"], mount["mountPropagation"]) == ("/run/netns", "HostToContainer")
    (volume,) = (v for v in plane["volumes"] if v["name"] == "netns")
    assert volume["hostPath"] == {"path": "/run/netns", "type": "DirectoryOrCreate"}


def test_every_volume_that_is_mounted_is_there_and_used(objects: list[Object]) -> None:
    for each in of_kind(objects, "DaemonSet", "Deployment"):
        pod = each["spec"]["template"]["spec"]
        there = {volume["name"] for volume in pod["volumes"]}
        used = {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]}
        assert used == there, each["metadata"]["name"]


def test_the_images_are_ours_or_the_sidecars_with_a_version(objects: list[Object]) -> None:
    images = {container["image"] for _, container in containers(objects)}
    ours = image.name_of(ROOT)
    assert ours in images
    for other in images - {ours}:
        assert re.fullmatch(r"sig-storage/[a-z-]+:v\d+\.\d+\.\d+", other)


def test_our_commands_and_their_options_exist(objects: list[Object]) -> None:
    """With the arguments of each container that runs our image."""
    seen = set()
    for owner, container in containers(objects):
        if container["image"] != image.name_of(ROOT):
            continue
        name, *arguments = container["args"]
        assert name in COMMANDS, f"{owner}: {name}"
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, [text.replace("$(NODE_NAME)", "node") for text in arguments])
        seen.add((name, *(a for a in arguments if a in ("--node", "--controller"))))
        if "readinessProbe" in container:
            program = Path(container["readinessProbe"]["exec"]["command"][0]).name
            assert program in contents.PROGRAMS | {"python3", "pyscsi-init"}
    assert {("serve", "--node"), ("serve", "--controller")} < seen


# -- rights of the API ----------------------------------------------------------------------------


def granted(objects: list[Object]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for role in of_kind(objects, "Role", "ClusterRole"):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found.setdefault((group or "core", resource), set()).update(rule["verbs"])
    return found


def written_list() -> dict[tuple[str, str], set[str]]:
    """The table of README.md."""
    rows = re.findall(
        r"^\| (core|[a-z0-9.]+\.io) \| ([a-z/]+) \| ([a-z, ]+) \| (.+) \|$",
        (DEPLOY / "README.md").read_text(),
        re.MULTILINE,
    )
    for _, resource, _, who in rows:
        assert re.match(r"(provisioner|resizer)\b.*:", who), resource
    return {(group, resource): set(verbs.split(", ")) for group, resource, verbs, _ in rows}


def test_every_right_has_a_user_and_every_user_its_right(objects: list[Object]) -> None:
    assert granted(objects) == written_list()
    assert not {"*"} & set().union(*granted(objects).values())


def test_rights_are_for_the_controller_alone(objects: list[Object]) -> None:
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        (subject,) = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == ("pyscsi-init-controller", "pyscsi-init")
    with_secrets = [
        role["kind"]
        for role in of_kind(objects, "Role", "ClusterRole")
        if any("secrets" in rule["resources"] for rule in role["rules"])
    ]
    assert with_secrets == ["Role"]
    for each in of_kind(objects, "DaemonSet", "Deployment"):
        assert each["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


# -- examples -------------------------------------------------------------------------------------


def attributes(file: Path) -> Iterator[dict[str, str]]:
    for each in yaml.safe_load_all(file.read_text()):
        spec = each.get("spec", {})
        for source in (spec.get("csi"), *(v.get("csi") for v in spec.get("volumes", []))):
            if source is not None:
                assert source["driver"] == DRIVER
                yield source["volumeAttributes"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_driver_takes_the_attributes_of_the_examples(file: Path) -> None:
    from fusefs.csi.attributes import read_attributes

    for given in attributes(file):
        assert read_attributes(given)


def test_kubelet_has_one_directory(objects: list[Object]) -> None:
    """Each path below it is one that kubelet gives or reads, so none differs inside."""
    (node,) = (
        each
        for each in objects
        if each["metadata"]["name"] == "pyscsi-init-node" and each["kind"] == "DaemonSet"
    )
    pod = node["spec"]["template"]["spec"]
    paths = {
        volume["name"]: volume.get("hostPath", {}).get("path", "") for volume in pod["volumes"]
    }
    kubelet = paths["kubelet"]
    assert paths["socket"].startswith(f"{kubelet}/plugins/{DRIVER}")
    assert paths["registration"] == f"{kubelet}/plugins_registry"
    (driver, registrar, *_) = pod["containers"]
    (mount,) = (mount for mount in driver["volumeMounts"] if mount["name"] == "kubelet")
    assert mount["mountPath"] == kubelet
    assert f"--kubelet-registration-path={paths['socket']}/csi.sock" in registrar["args"]


def references(thing: Any) -> Iterator[tuple[str, str]]:
    """Kind and name of what an object cannot do without."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key in ("secretKeyRef", "nodeStageSecretRef", "nodePublishSecretRef"):
                yield "Secret", value["name"]
            elif key == "claimName":
                yield "PersistentVolumeClaim", value
            elif key == "volumeName":
                yield "PersistentVolume", value
            elif key == "serviceName":
                yield "Service", value
            yield from references(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from references(value)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_brings_all_that_it_names(file: Path) -> None:
    """But the StorageClass, which deploy/kubernetes has."""
    there = list(yaml.safe_load_all(file.read_text()))
    made = {(each["kind"], each["metadata"]["name"]) for each in there}
    assert set(references(there)) <= made
