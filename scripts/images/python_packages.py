# SPDX-License-Identifier: Apache-2.0
"""The Python packages of a root file system: the project's dependencies, and the project itself.

pip of the calling environment fetches wheels for the interpreter that is inside; nothing is built
but the project's own wheel, and pip itself stays outside.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from scripts.images import contents
from scripts.images.failure import BuildFailed
from scripts.images.libraries import inside

PIP_SECONDS = 900.0
TARGET = "usr/lib/python3/dist-packages"
COMMAND = """#!/usr/bin/python3 -P
import sys

from {module} import {function}

sys.exit({function}())
"""


def project(source: Path) -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    return table


def requirements(source: Path) -> list[str]:
    """What the project and the extras in the image depend on."""
    table = project(source)
    optional = table.get("optional-dependencies", {})
    extras = [each for name in contents.EXTRAS for each in optional.get(name, [])]
    return sorted({*table["dependencies"], *extras})


def python_version(root: Path) -> str:
    """The version of the interpreter that is inside, as 3.11."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return _run(
        inside(root, "/usr/bin/python3", "-I", "-S", "-B", "-c", code), "Python inside"
    ).strip()


def install_dependencies(root: Path, source: Path) -> None:
    """Put the dependencies of the project into ``root``."""
    version = python_version(root)
    _pip(
        *("install", "--target", str(root / TARGET), "--python-version", version),
        *("--implementation", "cp", "--only-binary", ":all:", "--no-compile"),
        *requirements(source),
    )
    # Scripts of dependencies name the interpreter that pip ran with.
    shutil.rmtree(root / TARGET / "bin", ignore_errors=True)
    for path in (root / TARGET).rglob("*"):
        if path.is_file() and contents.is_for_developers(str(path.relative_to(root / TARGET))):
            path.unlink()
    _forget_where_from(root)


def install_project(root: Path, source: Path) -> None:
    """Build the wheel of the project and put it into ``root``, with its command."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as directory:
        _pip("wheel", "--no-deps", "--wheel-dir", directory, str(source))
        (wheel,) = Path(directory).glob("*.whl")
        _pip("install", "--no-deps", "--no-compile", "--target", str(root / TARGET), str(wheel))
    shutil.rmtree(root / TARGET / "bin", ignore_errors=True)
    for name, entry in project(source)["scripts"].items():
        module, _, function = entry.partition(":")
        command = root / "usr/bin" / name
        command.write_text(COMMAND.format(module=module, function=function))
        command.chmod(0o755)
    _forget_where_from(root)


def compile_all(root: Path, *folders: str) -> None:
    """Byte code for every module below ``folders``, which holds whatever the file times are."""
    mode = ("--invalidation-mode", "unchecked-hash")
    python = inside(root, "/usr/bin/python3", "-I", "-B", "-m", "compileall", "-q", *mode)
    _run([*python, *(f"/{folder}" for folder in folders)], "compiling")


def _forget_where_from(root: Path) -> None:
    for name in ("direct_url.json", "INSTALLER", "REQUESTED", "RECORD"):
        for path in (root / TARGET).glob(f"*.dist-info/{name}"):
            path.unlink()


def _pip(*arguments: str) -> None:
    _run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        f"pip {arguments[0]}",
    )


def _run(command: list[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    if done.returncode:
        raise BuildFailed(f"{what} failed", done.stdout + done.stderr, "see above")
    return done.stdout
