# SPDX-License-Identifier: Apache-2.0
"""What the pages for Kubernetes show is what cluster and driver take: manifests are valid, overlays
render, attributes are read. (Commands and sentences: tests/fusefs/cli/test_documents.py.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusefs.csi.attributes import SHOWN, read_attributes
from fusefs.volume import pool
from tests.packaging.test_kubernetes import DRIVER, validate
from tests.support import kustomize
from tests.support.source import ROOT

yaml = pytest.importorskip("yaml", reason="the Python module yaml is not installed")
Object = dict[str, Any]

HOWTO = ROOT / "docs/howto"
PAGES = sorted([*HOWTO.glob("kubernetes-*.md"), *HOWTO.glob("migrate-*.md")])
BASE = "../deploy/kubernetes"


def blocks(page: Path) -> Iterator[str]:
    yield from re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def documents() -> Iterator[Object]:
    for page in PAGES:
        for block in blocks(page):
            yield from yaml.safe_load_all(block)


def of_kubernetes() -> list[Object]:
    found = [each for each in documents() if each.get("apiVersion") in ("v1", "storage.k8s.io/v1")]
    assert len(found) >= 3
    return found


def test_every_object_that_is_shown_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "shown.yaml"
    file.write_text(yaml.safe_dump_all(of_kubernetes()))
    assert validate(file) == ""


def test_the_driver_takes_what_is_shown() -> None:
    read = 0
    for each in documents():
        source = each.get("spec", {}).get("csi", each)
        if "volumeAttributes" in source:
            assert source.get("driver", DRIVER) == DRIVER
            assert read_attributes(source["volumeAttributes"])
            read += 1
        if each.get("kind") == "StorageClass":
            assert each["provisioner"] == DRIVER
            own = {k: v for k, v in each["parameters"].items() if k in (pool.POOL, pool.ON_RELEASE)}
            assert pool._read_parameters(own)
            read += 1
    assert read >= 3


def test_every_attribute_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/csi.md").read_text()
    assert [name for name in SHOWN if f"| `{name}` |" not in text] == []


def overlays() -> list[str]:
    found = [block for page in PAGES for block in blocks(page) if "kind: Kustomization" in block]
    assert len(found) == 3
    return found


@pytest.mark.parametrize("number", range(3))
def test_every_overlay_that_is_shown_renders(number: int, tmp_path: Path) -> None:
    directory = tmp_path / "overlay"
    directory.mkdir()
    text = overlays()[number].replace(BASE, os.path.relpath(kustomize.DEPLOY, directory.resolve()))
    (directory / "kustomization.yaml").write_text(text.replace("REGISTRY", "registry.example"))
    file = kustomize.render(directory, tmp_path / "all.yaml")
    assert validate(file) == ""
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in yaml.safe_load_all(file.read_text())
        if each["kind"] in ("DaemonSet", "Deployment")
    }
    assert len(pods) == 3
    for pod in pods.values():
        there = {volume["name"] for volume in pod["volumes"]}
        used = {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]}
        assert used == there
    if "microk8s" in text:
        elsewhere(pods["pyscsi-init-node"])


def elsewhere(pod: Object) -> None:
    """kubelet's directory has one path on the node, in the driver and in what kubelet is told."""
    assert "/var/lib/kubelet" not in re.sub(r"/var/snap/[\w/]*", "", str(pod))
    paths = {
        each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each
    }
    containers = {each["name"]: each for each in pod["containers"]}
    (mount,) = (m for m in containers["driver"]["volumeMounts"] if m["name"] == "kubelet")
    assert mount["mountPath"] == paths["kubelet"]
    assert mount["mountPropagation"] == "Bidirectional"
    (registration,) = (
        text.partition("=")[2]
        for text in containers["node-driver-registrar"]["args"]
        if text.startswith("--kubelet-registration-path=")
    )
    assert registration == f"{paths['socket']}/csi.sock"
