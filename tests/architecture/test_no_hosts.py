# SPDX-License-Identifier: Apache-2.0
"""No file of the project names a package registry or a path of somebody's machine.

Where packages come from is the configuration of the machine that builds; a path that only one
machine has breaks on every other.
"""

from __future__ import annotations

import re

import pytest

from tests.support.source import name_of, project_files

REGISTRIES = (
    "pypi" + r"\.org",
    "pythonhosted" + r"\.org",
    "npmjs" + r"\.(org|com)",
    "proxy" + r"\.golang\.org",
    "crates" + r"\.io",
    "deb" + r"\.debian\.org",
    "hub" + r"\.docker\.com",
    "--(extra-)?index" + "-url",
    "--trusted" + "-host",
)
MACHINE_PATHS = (
    r"(?<![\w.])/ro" + r"ot/",
    r"(?<![\w.])/ho" + r"me/\w",
    r"(?<![\w.])/wo" + r"rk/",
    r"(?<![\w.])/opt/" + r"(venv|wheels|pypi)",
    r"\.py" + r"env/",
)
FORBIDDEN = re.compile("|".join(f"(?:{each})" for each in REGISTRIES + MACHINE_PATHS))
BINARY = {".png", ".pcap", ".pcapng", ".gz", ".img"}


def test_no_file_names_a_registry_or_a_machine() -> None:
    found = []
    for path in project_files():
        if path.suffix in BINARY:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := FORBIDDEN.search(line):
                found.append(f"{name_of(path)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["https://pypi" + ".org/simple", "/opt/" + "venv/bin/python"])
def test_the_law_itself(text: str) -> None:
    assert FORBIDDEN.search(text)
    assert not FORBIDDEN.search("apt-get install docker.io; cd ./src/main")
