# SPDX-License-Identifier: Apache-2.0
"""The root file system, in three stages, each kept under the digest of what it was made of.

Debian's packages change by the week, the dependencies with pyproject.toml, the project with every
edit; so a change of the project costs seconds. A stage is made beside its place and renamed, and
one process at a time makes them. What belongs to no stage of now is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from scripts.images import contents, debian, libraries, python_packages

SOURCE = Path(__file__).resolve().parent.parent.parent
BUILD = SOURCE / "build"
OF_THE_PROJECT = ("pyproject.toml", "README.md", "LICENSE", "pyscsi_init", "fusefs")

Progress = Callable[[str], None]


def build(directory: Path = BUILD, progress: Progress = lambda _text: None) -> Path:
    """The directory of the root file system as the sources are now; made where it is not there.

    Raises:
        BuildFailed: it cannot be made.
    """
    place = directory / "rootfs"
    place.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(place):
        apt = debian.Apt(place / "apt")
        packages = apt.resolve(contents.PACKAGES)
        recipe = _digest(sorted(Path(__file__).parent.glob("*.py")))
        names = [f"{package.name} {package.version}" for package in packages]
        base = _key(recipe, *names)
        wanted = python_packages.requirements(SOURCE)
        runtime = _key(base, *wanted, sys.version)
        whole = _key(runtime, _digest(_files(SOURCE, OF_THE_PROJECT)))

        def make_base(root: Path) -> None:
            progress(f"taking {len(packages)} Debian packages apart")
            _debian(root, apt, packages)

        def make_runtime(root: Path) -> None:
            _copy(_stage(place, "base", base, make_base), root)
            progress("installing the Python packages")
            python_packages.install_dependencies(root, SOURCE)
            libraries.remove_others(root)
            _forget_removed_packages(root)
            _remove_empty(root)
            python_packages.compile_all(root, "usr/lib")

        def make_whole(root: Path) -> None:
            _copy(_stage(place, "runtime", runtime, make_runtime), root)
            progress("installing the wheel")
            python_packages.install_project(root, SOURCE)
            python_packages.compile_all(root, python_packages.TARGET)

        found = _stage(place, "root", whole, make_whole)
        _remove_old(place, {f"base-{base}", f"runtime-{runtime}", f"root-{whole}"})
    return found


def size_bytes(root: Path) -> int:
    """What the files of ``root`` hold."""
    return sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())


def _debian(root: Path, apt: debian.Apt, packages: Iterable[debian.Package]) -> None:
    for name in contents.DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, target in contents.LINKS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    # Where scanners for known faults look for the packages of an image that has no dpkg.
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    wanted = list(packages)
    for package, file in zip(wanted, apt.fetch(wanted), strict=True):
        if kept := debian.unpack(file, root):
            (status / package.name).write_text(debian.control(file))
            (status / f"{package.name}.files").write_text("\n".join(kept))
    for name, text in contents.FILES.items():
        (root / name).write_text(text)


def _forget_removed_packages(root: Path) -> None:
    """One of which only the licence is left is not in the image, unless others refer to it."""
    documents = root / "usr/share/doc"
    gone = set()
    for listed in (root / "var/lib/dpkg/status.d").glob("*.files"):
        names = (root / name for name in listed.read_text().splitlines())
        files = [path for path in names if not path.is_relative_to(documents)]
        if not any(path.is_symlink() or path.exists() for path in files):
            gone.add(listed.stem)
        listed.unlink()
    referred = {
        str(path.readlink())
        for path in documents.iterdir()
        if path.is_symlink()
        if path.name not in gone
    }
    for name in gone - referred:
        (root / "var/lib/dpkg/status.d" / name).unlink()
        folder = documents / name
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, root: Path) -> None:
    shutil.copytree(source, root, symlinks=True, dirs_exist_ok=True)


def _remove_empty(root: Path) -> None:
    for path in sorted((root / "usr").rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()


def _stage(place: Path, name: str, key: str, make: Callable[[Path], None]) -> Path:
    wanted = place / f"{name}-{key}"
    if not wanted.is_dir():
        unfinished = place / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o755)
        make(unfinished)
        unfinished.rename(wanted)
    return wanted


@contextlib.contextmanager
def _one_at_a_time(place: Path) -> Iterator[None]:
    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_old(place: Path, keep: set[str]) -> None:
    for path in place.glob("*-*"):
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _files(source: Path, names: Iterable[str]) -> list[Path]:
    found = []
    for name in names:
        path = source / name
        found += [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(SOURCE)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
