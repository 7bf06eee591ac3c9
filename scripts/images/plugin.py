# SPDX-License-Identifier: Apache-2.0
"""The directory that `docker plugin create` takes: config.json and the root file system.

The files are linked, not copied. deploy/docker-plugin/README.md tells what each line of config.json
is for.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from scripts.images.rootfs import SOURCE

CONFIG = SOURCE / "deploy/docker-plugin/config.json"


def build(root: Path, directory: Path) -> Path:
    """Make ``directory`` of ``root``."""
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(root, unfinished / "rootfs", symlinks=True, copy_function=_link)
    shutil.copy(CONFIG, unfinished / "config.json")
    shutil.rmtree(directory, ignore_errors=True)
    return unfinished.rename(directory)


def _link(source: str, target: str) -> str:
    os.link(source, target, follow_symlinks=False)
    return target
