"""Imports run one way, as docs/architecture.md draws them.

Imports inside functions count, and so do those for types only: each of them is something that a module knows of another.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lt25"

# From the lowest to the highest; a module imports from lower layers and from its own package, not from its neighbours in a layer.
LAYERS = (
    ("errors", "memory", "replaced"),
    ("files", "importing", "progress", "launch", "source", "compiling", "cuda_graphs"),
    ("config", "slurm"),
    ("tasks", "plugins", "ops"),
    ("models",),
    ("sweeps",),
    ("experiment",),
    ("exported",),
    ("data", "generation"),
    ("checkpoints", "evaluation"),
    ("training",),
    ("report",),
    ("check", "dvc", "listing", "provenance", "tables"),
    ("new", "publish"),
    ("cli",),
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}


def _modules() -> dict[str, Path]:
    """Return the files by their modules' names: "lt25.config", "lt25.config.key"."""
    paths = (path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): PACKAGE.parent / path for path in paths}


MODULES = _modules()


def imported(path: Path) -> set[str]:
    """Return the modules of lt25 that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name in MODULES}


# `lt25/__init__.py` is apart: every import runs it first, and it registers models for programs that import lt25.
IMPORTS = {name: imported(path) - {"lt25"} for name, path in MODULES.items() if name != "lt25"}


def test_every_part_has_its_layer():
    parts = {name.split(".")[1] for name in MODULES if name != "lt25"}
    assert parts <= HEIGHT.keys()


def test_the_document_draws_these_layers_and_names_every_part():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, house, _, layers, *_ = text.split("```\n")
    drawn = [set(line.strip(" └").split(", ")) for line in layers.splitlines()]
    assert drawn == [set(layer) for layer in reversed(LAYERS)]
    named = {name.removesuffix(".py").removesuffix("/") for name in house.split()}
    assert HEIGHT.keys() - named == set()


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_a_module_imports_from_lower_layers_only(name):
    part = name.split(".")[1]
    others = {other for other in IMPORTS[name] if other.split(".")[1] != part}
    assert {other for other in others if HEIGHT[other.split(".")[1]] >= HEIGHT[part]} == set()


def test_nothing_is_mocked_outside_of_tests():
    product = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "workflow").rglob("*.py"), PACKAGE.parent / "Snakefile"]
    assert [path for path in product if "unittest" in path.read_text(encoding="utf-8")] == []


def test_modules_import_each_other_in_no_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
