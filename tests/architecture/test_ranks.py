# SPDX-License-Identifier: Apache-2.0
"""The import law: a module imports lower ranks or its own folder, and there are no cycles.

The lists are the law; docs/architecture.md explains it. A folder or top-level module that is not in
them fails the test: it must be given its place first.
"""

from __future__ import annotations

import pytest

from tests.support.source import imports, module_of, modules, name_of

RANKS = {
    "pyscsi_init": (
        ("buffers", "errors", "secret", "settings", "serial", "names", "url"),
        ("pdu", "scsi"),
        ("login",),
        ("connection",),
        ("session",),
        ("transport",),
        ("discovery", "device"),
        ("blocking",),
    ),
    "fusefs": (
        ("errors", "volume_errors", "spec"),
        ("host",),
        ("fuse",),
        ("process",),
        ("volume",),
        ("docker", "csi", "cinder", "convert"),
        ("cli",),
    ),
}

LEAVES_MAY_MEET = RANKS["pyscsi_init"][0] + RANKS["fusefs"][0]
"""Single modules of the lowest ranks, which may use each other as long as there is no cycle."""

TESTING = "pyscsi_init.testing"
TESTING_MAY_IMPORT = (
    "pyscsi_init.errors",
    "pyscsi_init.serial",
    "pyscsi_init.names",
    "pyscsi_init.pdu",
    "pyscsi_init.scsi",
    "pyscsi_init.login.text",
    TESTING,
)
"""The target in Python must not share the initiator's logic, or both would share its errors."""

FACES = ("pyscsi_init", "fusefs", "fusefs.__main__", "pyscsi_init.__main__")
"""The packages' own modules stand above everything in their package."""


def rank_of(module: str) -> int:
    package, _, rest = module.partition(".")
    if module in FACES:
        return 99
    for rank, names in enumerate(RANKS[package]):
        if rest.split(".")[0] in names:
            return rank
    raise AssertionError(f"{module} has no rank: give it its place in RANKS")


def within(module: str, parent: str) -> bool:
    return module == parent or module.startswith(f"{parent}.")


def problem_with(importer: str, imported: str) -> str:
    """Why the import breaks the law; empty if it does not."""
    package, target = importer.split(".")[0], imported.split(".")[0]
    if within(importer, TESTING):
        allowed = any(within(imported, each) for each in TESTING_MAY_IMPORT)
        return "" if allowed else "the Python target imports only codecs and names"
    if within(imported, TESTING):
        return "the Python target is for tests" if importer != "fusefs.cli.demo" else ""
    if package != target:
        return "" if package == "fusefs" else "pyscsi_init never imports fusefs"
    if importer in FACES:
        return ""
    if imported in FACES:
        # An empty face is only the place where the package lies.
        return "the face of the package imports its modules" if has_imports(imported) else ""
    folder, other = importer.split(".")[1], imported.split(".")[1]
    if folder == other or (folder in LEAVES_MAY_MEET and other in LEAVES_MAY_MEET):
        return ""
    if rank_of(imported) < rank_of(importer):
        return ""
    return f"{other} does not rank below {folder}"


def has_imports(face: str) -> bool:
    return any(within(name, face) for _, name in imports(modules()[face]))


def edges() -> list[tuple[str, str, str]]:
    """Importer, imported, and where, for the imports between our modules."""
    return [
        (module, imported, f"{name_of(path)}:{line}")
        for module, path in modules().items()
        for line, imported in imports(path)
        if imported.split(".")[0] in RANKS
    ]


def test_every_module_has_a_rank() -> None:
    for module in modules():
        if not within(module, TESTING):
            rank_of(module)


def test_imports_point_down() -> None:
    found = [
        f"{where}: {importer} imports {imported}: {why}"
        for importer, imported, where in edges()
        if (why := problem_with(importer, imported))
    ]
    assert not found, "\n".join(found)


def test_no_cycles() -> None:
    """Annotations do not count here: two halves of one noun may name each other."""
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for module, path in modules().items():
        names = {imported for _, imported in imports(path, annotations=False)}
        graph[module] = {name for name in names if name in graph and name != module}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            cycle = " -> ".join((*trail[trail.index(module) :], module))
            pytest.fail(f"import cycle: {cycle}", pytrace=False)
        if module not in done:
            for next_module in sorted(graph[module]):
                visit(next_module, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("pyscsi_init.session.window", "pyscsi_init.pdu", True),
        ("pyscsi_init.pdu.bhs", "pyscsi_init.session", False),
        ("pyscsi_init.pdu.data", "pyscsi_init.scsi", False),
        ("pyscsi_init.device.interface", "pyscsi_init.errors", True),
        ("pyscsi_init.device.unit", "pyscsi_init.discovery", False),
        ("pyscsi_init.url", "pyscsi_init.names", True),
        ("pyscsi_init.session.task", "pyscsi_init.session.window", True),
        ("pyscsi_init.device.unit", "fusefs.spec", False),
        ("pyscsi_init.testing.target", "pyscsi_init.login.text", True),
        ("pyscsi_init.testing.target", "pyscsi_init.login", False),
        ("pyscsi_init.session.task", "pyscsi_init.testing", False),
        ("fusefs.volume.stack", "pyscsi_init", True),
        ("fusefs.volume.stack", "fusefs.host.linux", True),
        ("fusefs.host.linux", "fusefs.volume", False),
        ("fusefs.csi.node", "fusefs.docker.driver", False),
    ],
)
def test_the_law_itself(importer: str, imported: str, allowed: bool) -> None:
    assert (problem_with(importer, imported) == "") is allowed


def test_there_is_something_to_test() -> None:
    assert module_of(modules()["pyscsi_init.errors"]) == "pyscsi_init.errors"
    assert any(imported == "pyscsi_init.errors" for _, imported, _ in edges())
