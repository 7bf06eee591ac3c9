# SPDX-License-Identifier: Apache-2.0
"""Build what is installed without a registry; the result's path is the last line of the output."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from scripts.images import image, plugin, python_packages, rootfs
from scripts.images.failure import BuildFailed
from scripts.images.rootfs import BUILD, SOURCE


def main() -> int:
    """Make what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.images", description=__doc__)
    parser.add_argument("what", choices=("rootfs", "image", "docker-plugin"))
    what = parser.parse_args().what
    begun = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - begun:6.1f} s  {text}\n")

    try:
        made = root = rootfs.build(progress=say)
        say(f"the root file system has {rootfs.size_bytes(root) / 1e6:.1f} MB")
        if what == "image":
            made = make_image(root)
            say(f"image {image.name_of(SOURCE)}, to be loaded with: docker load -i {made}")
        elif what == "docker-plugin":
            made = plugin.build(root, BUILD / "docker-plugin")
            say(f"to be installed with: docker plugin create pyscsi-init {made}")
    except BuildFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{made}\n")
    return 0


def make_image(root: Path) -> Path:
    """The image of the root file system, in the build directory."""
    version = python_packages.project(SOURCE)["version"]
    archive = BUILD / "pyscsi-init-image.tar"
    return image.build(root, archive, image.name_of(SOURCE), version).archive


if __name__ == "__main__":
    sys.exit(main())
