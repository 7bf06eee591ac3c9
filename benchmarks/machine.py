# SPDX-License-Identifier: Apache-2.0
"""What a figure was measured on: without it, a figure is nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PACKAGES = (
    "tgt",
    "libiscsi-bin",
    "qemu-system-common",
    "qemu-utils",
    "libnbd-bin",
    "fio",
    "postgresql",
    "user-mode-linux",
)
MODULES = ("pyscsi-init", "anyio", "trio", "uvloop", "pyfuse3", "crc32c")


def facts() -> dict[str, Any]:
    """Kernel, processor, memory, load, and the versions of everything that takes part."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "kernel": platform.release(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "commit": _commit(),
        "modules": {name: found for name in MODULES if (found := _module(name))},
        "packages": {name: found for name in PACKAGES if (found := _package(name))},
    }


def busy() -> str:
    """Why the figures of this moment would say little; empty where they would not."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < cores / 2:
        return ""
    return (
        f"the machine was busy (load {load:.1f} on {cores} cores): figures scatter, see the rounds"
    )


def _processor() -> str:
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def _module(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _package(name: str) -> str:
    return _output("dpkg-query", "--show", "--showformat=${Version}", name)


def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    return _output("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12")
