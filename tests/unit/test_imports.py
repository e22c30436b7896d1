"""The floor plan: imports run one way, from the roof to the ground, and only `on_ray` knows Ray.

Every import counts, also those inside functions and those for annotations alone.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rosepo_ray

PACKAGE = Path(rosepo_ray.__file__).parent
FLOORS = [
    "errors seeds row_dropout extras",
    "storage",
    "process",
    "config",
    "catalogue",
    "losses",
    "rejection",
    "oracle",
    "data",
    "training",
    "policy",
    "programs",
    "evaluation",
    "library",
    "testing",
    "registry",
    "on_ray",
    "stages",
    "run",
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
DOORS = {"data", "sft", "sft_longer", "oracle", "reject", "calibrate", "align", "evaluate", "register"}


def modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: give the whole name of the module"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield node.lineno, whole if whole in MODULES else str(node.module)


def room(module: str) -> str:
    """The room of the package that a module lies in; nothing for the package itself."""
    return [*module.split("."), ""][1]


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} - {""} == FLOOR.keys()


def test_no_import_leads_upwards():
    found = [
        f"{file.relative_to(PACKAGE)}:{line} imports {target}"
        for module, file in MODULES.items()
        if room(module)
        for line, target in imports(file)
        if target.startswith("rosepo_ray.") and FLOOR[room(target)] > FLOOR[room(module)]
    ]
    assert not found, "\n".join(found)


def test_only_on_ray_imports_ray():
    found = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for module, file in MODULES.items()
        if room(module) != "on_ray"
        for line, target in imports(file)
        if target.partition(".")[0] == "ray"
    ]
    assert not found, "\n".join(found)


def test_nothing_is_imported_by_a_string():
    """What the walk above would not see."""
    calls = {"__import__", "import_module"}
    found = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in MODULES.values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Name | ast.Attribute)
        and (getattr(node, "id", None) or getattr(node, "attr", "")) in calls
    ]
    assert not found, "\n".join(found)


def test_no_circle_within_a_room():
    """At the top of a module; inside a function it would be as bad, and is found as well."""
    arrows = {
        module: {target for _, target in imports(file) if target in MODULES and target != module}
        for module, file in MODULES.items()
    }
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 1:
            pytest.fail("a circle: " + " -> ".join([*path[path.index(module) :], module]))
        if state.get(module) is None:
            state[module] = 1
            for target in sorted(arrows[module]):
                visit(target, (*path, module))
            state[module] = 2

    for module in sorted(MODULES):
        visit(module, ())


def test_stages_holds_nine_doors_and_nothing_else():
    assert {file.stem for file in (PACKAGE / "stages").glob("*.py")} == DOORS | {"__init__"}
