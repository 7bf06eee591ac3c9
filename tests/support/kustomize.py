# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes as `kubectl kustomize` renders it, as it is and with components."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .requirements import require
from .source import ROOT

DEPLOY = ROOT / "deploy/kubernetes"


def render(directory: Path, file: Path) -> Path:
    """What `kubectl kustomize` makes of ``directory``, in ``file``."""
    kubectl = require("kubectl", "kubernetes-client")
    done = subprocess.run(
        [kubectl, "kustomize", str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file.write_text(done.stdout)
    return file


def overlay(directory: Path, *components: str) -> Path:
    """Make ``directory`` an overlay of deploy/kubernetes with ``components`` of it."""
    base = os.path.relpath(DEPLOY, directory.resolve())
    lines = [
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        "resources:",
        f"  - {base}",
        "components:",
        *(f"  - {base}/components/{name}" for name in components),
    ]
    (directory / "kustomization.yaml").write_text("\n".join(lines) + "\n")
    return directory
