# SPDX-License-Identifier: Apache-2.0
"""The extras of the distribution: what each is for, and whether it is installed.

The table names modules, because what matters is what can be imported; a test holds it against
pyproject.toml. Nothing is imported here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extra:
    """One extra."""

    name: str
    modules: dict[str, str]
    """Distribution -> module of it."""
    without: str
    """What cannot be had without it."""

    @property
    def remedy(self) -> str:
        """How it is had."""
        return f"pip install 'pyscsi-init[{self.name}]'"

    def missing(self) -> list[str]:
        """The distributions that are not there."""
        return [name for name, module in self.modules.items() if not _is_there(module)]

    def versions(self) -> str:
        """Which versions are there."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.modules)


EXTRAS = (
    Extra("uvloop", {"uvloop": "uvloop"}, "asyncio's own loop is used, which is slower"),
    Extra("docker", {"starlette": "starlette", "uvicorn": "uvicorn"}, "no serve --docker"),
    Extra(
        "csi",
        {"grpcio": "grpc", "protobuf": "google.protobuf", "ruamel.yaml": "ruamel.yaml"},
        "no serve --csi, no convert",
    ),
    Extra("bench", {"jinja2": "jinja2", "matplotlib": "matplotlib"}, "make bench has no report"),
    Extra("pyfuse3", {"pyfuse3": "pyfuse3"}, "--fuse pyfuse3 cannot be had"),
)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False
