# SPDX-License-Identifier: Apache-2.0
"""What `make image` and `make docker-plugin` make, made once and kept under build/.

The first build of a machine fetches packages and takes a minute or more; later ones find their
stages, and wait for whoever builds already.
"""

from __future__ import annotations

from pathlib import Path

from scripts.images import image, plugin, python_packages, rootfs
from scripts.images.failure import BuildFailed

from .requirements import missing, require
from .source import ROOT

NO_NETWORK = (
    "Temporary failure",
    "Could not resolve",
    "NewConnectionError",
    "Max retries exceeded",
)


def root_file_system() -> Path:
    """The root file system of the sources as they are."""
    require("apt-get")
    require("dpkg-deb")
    try:
        return rootfs.build()
    except BuildFailed as error:
        if any(text in str(error) for text in NO_NETWORK):
            missing(f"no packages can be had: {error}")
        raise


def image_archive(directory: Path) -> image.Image:
    """The container image, in ``directory``."""
    version = python_packages.project(ROOT)["version"]
    name = image.name_of(ROOT)
    return image.build(root_file_system(), directory / "image.tar", name, version)


def plugin_directory(directory: Path) -> Path:
    """What `docker plugin create` takes, in ``directory``."""
    return plugin.build(root_file_system(), directory / "docker-plugin")
