# SPDX-License-Identifier: Apache-2.0
"""The wheel, as a user gets it: no compiler, no libfuse, no root, on both event loops.

It is built from the tree, installed with its dependencies into a new environment, and its command
is run as a user who owns nothing but a home, against a target of the test's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyscsi_init.testing import RamDisk
from tests.support import requirements
from tests.support.python_target import IQN, MEBI, TargetThread, make_target

ROOT = Path(__file__).resolve().parent.parent.parent
NOBODY = 65534
BACKENDS = ("asyncio", "trio")
NO_NETWORK = ("NewConnectionError", "Temporary failure in name resolution", "Max retries exceeded")
PACKAGES = ("pyscsi_init", "fusefs")


def run_pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    """pip of this environment, or of another one by ``--python``."""
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        env=env,
        timeout=110,
        check=False,
    )
    told = result.stdout + result.stderr
    if result.returncode and any(text in told for text in NO_NETWORK):
        requirements.missing("no package index can be reached")
    assert result.returncode == 0, told


def python_for_everybody() -> str:
    """A Python that another user may run: root's own may lie in a directory that is only root's."""
    for name in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        code = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
        try:
            found = subprocess.run(
                [name, "-c", code], user=NOBODY, group=NOBODY, capture_output=True, check=False
            )
        except OSError:
            continue
        if found.returncode == 0:
            return name
    return requirements.missing("no Python of at least 3.11 with venv that every user may run")


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """A directory that everybody may read; pytest's own are for one user."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def wheel(public: Path) -> Path:
    """The wheel, built from a copy of what it is made of: the tree stays clean."""
    source = public / "source"
    source.mkdir()
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run_pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(public), str(source))
    (built,) = public.glob("*.whl")
    shutil.rmtree(source)
    return built


@pytest.fixture(scope="module")
def bin_dir(public: Path, wheel: Path) -> Path:
    """The programs of a new environment with the wheel in it; made without any compiler."""
    requirements.require_root()
    environment = public / "venv"
    subprocess.run(
        [python_for_everybody(), "-m", "venv", "--without-pip", str(environment)],
        check=True,
        timeout=60,
    )
    nothing = public / "empty"
    nothing.mkdir()
    # Neither a compiler in PATH nor a package that would need one.
    run_pip(
        "--python",
        str(environment / "bin" / "python"),
        "install",
        "--quiet",
        "--only-binary",
        ":all:",
        str(wheel),
        env={**os.environ, "PATH": str(nothing), "CC": "/bin/false"},
    )
    return environment / "bin"


@pytest.fixture
def home(public: Path) -> Iterator[Path]:
    """A home of the unprivileged user."""
    with tempfile.TemporaryDirectory(dir=public, prefix="home-") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def as_nobody(
    program: Path, *arguments: str, home: Path, bin_dir: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment without any right and without anything else in PATH."""
    return subprocess.run(
        [str(program), *arguments],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd=home,
        env={"PATH": str(bin_dir), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_in_it(wheel: Path) -> None:
    """All modules and the typing markers, and nothing of the tests."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: true" in archive.read(metadata).decode()
        entry_points = archive.read(metadata.replace("WHEEL", "entry_points.txt")).decode()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "pyscsi-init = fusefs.cli:main" in entry_points
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= names
    rest = {name for name in names if not name.startswith(tuple(f"{p}/" for p in PACKAGES))}
    assert all(".dist-info/" in name for name in rest)
    assert not [name for name in names if name.endswith((".so", ".pyc", ".c"))]


def test_the_library_without_root_without_libfuse(bin_dir: Path, home: Path) -> None:
    code = """
import importlib, pathlib, pkgutil, sys
import pyscsi_init, fusefs
for name in pyscsi_init.__all__:
    getattr(pyscsi_init, name)
assert pyscsi_init.__file__.startswith(sys.prefix)
extras = ("fusefs.docker", "fusefs.csi", "fusefs.convert")
count = 0
for package in (pyscsi_init, fusefs):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # pytest is no dependency: who loads the plugin has it.
        if module.name.endswith(("__main__", "pytest_plugin")) or module.name.startswith(extras):
            continue
        if "pyfuse3" not in module.name:
            importlib.import_module(module.name)
            count += 1
assert "pyfuse3" not in sys.modules
assert "fuse" not in pathlib.Path("/proc/self/maps").read_text().replace("fusefs", "")
print(count)
"""
    result = as_nobody(bin_dir / "python", "-W", "error", "-c", code, home=home, bin_dir=bin_dir)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100
    assert result.stderr == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_command_without_root(bin_dir: Path, home: Path, backend: str) -> None:
    """discover, info and copy, both ways."""
    disk = RamDisk(16 * MEBI)
    content = random.Random(1).randbytes(3 * MEBI) + bytes(2 * MEBI) + b"end"
    content += bytes(16 * MEBI - len(content))

    def command(*arguments: str) -> str:
        result = as_nobody(
            bin_dir / "pyscsi-init",
            *arguments,
            "--backend",
            backend,
            "--json",
            home=home,
            bin_dir=bin_dir,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    with TargetThread(make_target(disk)) as served:
        disk.write(0, content)
        (found,) = json.loads(command("discover", served.address))
        assert found["name"] == IQN
        assert found["portals"] == [f"{served.address},1"]
        info = json.loads(command("info", served.url()))
        again = json.loads(command("info", served.url()))
        assert info["capacity"]["size_bytes"] == 16 * MEBI
        # The name of this host is made once and kept, in the home of who has no other place.
        assert info["session"]["initiator_name"] == again["session"]["initiator_name"]
        copied = json.loads(command("copy", served.url(), "image"))
        assert copied["sha256"] == hashlib.sha256(content).hexdigest()
        assert (home / "image").read_bytes() == content
        served.call(lambda: disk.write(0, bytes(16 * MEBI)))
        command("copy", "image", served.url())
        assert disk.read(0, 16 * MEBI) == content
        assert served.target.sessions == []


def test_bench_without_root_and_without_uvloop(bin_dir: Path, home: Path) -> None:
    with TargetThread(make_target()) as served:

        def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
            return as_nobody(
                bin_dir / "pyscsi-init", "bench", served.url(), "--runtime=0.1", *arguments,
                home=home, bin_dir=bin_dir,
            )  # fmt: skip

        done = bench("--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ios"] > 0
        refused = bench("--loop=uvloop")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "pyscsi-init[uvloop]" in refused.stderr


def test_what_needs_root_says_so(bin_dir: Path, home: Path) -> None:
    with TargetThread(make_target()) as served:
        result = as_nobody(
            bin_dir / "pyscsi-init",
            "attach",
            served.url(),
            "--name",
            "v",
            home=home,
            bin_dir=bin_dir,
        )
    assert result.returncode not in (0, 1)
    assert "root" in result.stderr
    assert "Traceback" not in result.stderr


def test_version_and_help(bin_dir: Path, home: Path) -> None:
    for arguments, text in (
        (("--version",), "pyscsi-init 0."),
        (("--help",), "discover"),
        (("copy", "--help"), "SRC"),
    ):
        result = as_nobody(bin_dir / "pyscsi-init", *arguments, home=home, bin_dir=bin_dir)
        assert result.returncode == 0, result.stderr
        assert text in result.stdout
