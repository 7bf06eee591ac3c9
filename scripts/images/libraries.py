# SPDX-License-Identifier: Apache-2.0
"""Which shared libraries are needed in a root file system, asked of its own loader.

The rest is removed, and a library that is needed and not there fails the build: so the list of what
is not taken from Debian cannot be wrong in silence.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.images.failure import BuildFailed

_ALWAYS = re.compile(r"ld-linux|libnss_(files|dns)\.|libresolv\.|libgcc_s\.")
"""The loader, and what the C library opens without a line in any header: name services, and what
unwinds a thread at its end."""
_RESOLVED = re.compile(r"=> (?P<path>/\S+) \(")
_ELF = b"\x7fELF"


def inside(root: Path, *command: str) -> list[str]:
    """The command line that runs ``command`` with ``root`` as its root directory."""
    if os.geteuid() == 0:
        return ["chroot", str(root), *command]
    return ["unshare", "--map-root-user", f"--root={root}", *command]


def _loader(root: Path) -> str:
    for pattern in ("usr/lib*/ld-linux*.so*", "usr/lib/*/ld-linux*.so*"):
        for found in sorted(root.glob(pattern)):
            return f"/{found.relative_to(root)}"
    raise BuildFailed("the root file system has no loader", "", "is libc6 in it?")


def _objects(root: Path) -> Iterator[Path]:
    """Programs and extension modules: whatever is needed for its own sake."""
    folders = (root / "usr/bin", root / "usr/sbin", *root.glob("usr/lib/python3*"))
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(4) == _ELF:
                        yield path


def needed(root: Path) -> set[Path]:
    """Every library that something in ``root`` needs, with the links that lead to it.

    Raises:
        BuildFailed: one is not there.
    """
    loader = _loader(root)
    found = {path for path in root.glob("usr/lib/*/*.so*") if _ALWAYS.match(path.name)}
    asked: list[Path] = [*_objects(root), *found]
    for path in asked:
        text = _ask(root, loader, path)
        found |= {root / match["path"].lstrip("/") for match in _RESOLVED.finditer(text)}
    found.add(root / loader.lstrip("/"))
    places = {_in_root(root, path) for path in found}
    return places | {place.parent / place.readlink() for place in places if place.is_symlink()}


def _ask(root: Path, loader: str, path: Path) -> str:
    command: Sequence[str] = inside(root, loader, "--list", f"/{path.relative_to(root)}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    text = done.stdout + done.stderr
    if done.returncode or "not found" in text:
        raise BuildFailed(
            f"{path.relative_to(root)} lacks a library", text, "take its package in contents.py"
        )
    return text


def _in_root(root: Path, path: Path) -> Path:
    """The path below its directory's real place: /lib is a link."""
    folder = path.relative_to(root).parent
    top = root / folder.parts[0]
    if top.is_symlink():
        folder = top.readlink().joinpath(*folder.parts[1:])
    return root / folder / path.name


def remove_others(root: Path) -> None:
    """Remove the libraries that nothing needs."""
    keep = needed(root)
    for path in [*root.glob("usr/lib/*-linux-*/*"), *root.glob("usr/lib/*.so*")]:
        if ".so" in path.name and not path.is_dir() and path not in keep:
            path.unlink()
