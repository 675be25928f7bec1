"""``lt25 export --with-code``: the modelling code beside the weights, for those who have transformers but not lt25.

The files are lt25's own modules, those that the model's classes import and no more, in one folder as transformers asks for. They
compute by the operators' definitions in plain torch, in float64 and a step after another: slowly, and on any device.
"""

import ast
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from lt25.errors import UserError
from lt25.files import read_json, write_json, write_text
from lt25.tasks import TASKS

_HEAD = "# From lt25 {version}, by `lt25 export --with-code`. MIT License, copyright (c) 2026 The lt25 authors.\n"
# transformers finds the files by lines `from .file import name`, and none of these names a file as a whole.
_WHOLE = "this_file"
_END = f"\n\n{_WHOLE} = __import__('sys').modules[__name__]\n"
_BACKENDS = "lt25.ops.backends"
# Beside the definitions no kernels are taken along: their modules are named nowhere else.
_BACKENDS_END = '''

def choose(operator, x, backend):
    """Choose the definition, whatever the device."""
    return "reference"


def kernels(backend, operator):
    """Refuse what has no definition in plain torch: losses on a GPU."""
    raise ImportError(f"{operator} needs kernels of lt25: pip install lt25, import lt25, and leave trust_remote_code out")
'''


def write_code(folder: Path, task: str) -> None:
    """Write the code of an exported model into its folder, and the entries by which transformers finds it.

    Args:
        folder: has config.json and, of features, preprocessor_config.json.
        task: of the model.

    Raises:
        UserError: if the model is none of lt25's own.
    """
    from lt25 import models
    from lt25.data import features

    config = read_json(folder / "config.json", "")
    check_own(config["model_type"])
    model = getattr(models, config["architectures"][0])
    modules = _enter(folder / "config.json", {"AutoConfig": models.HGRNConfig, TASKS[task].auto_model: model})
    if (file := folder / "preprocessor_config.json").is_file():
        extractor = getattr(features, read_json(file, "")["feature_extractor_type"])
        modules += _enter(file, {"AutoFeatureExtractor": extractor})
    for module, text in _closure(modules).items():
        write_text(folder / f"{_flat(module)}.py", text)


def check_own(model_type: str) -> None:
    """Complain of a model whose code is not lt25's.

    Raises:
        UserError: for such a model.
    """
    if model_type != "lt25_hgrn":
        raise UserError(
            f"lt25 export --with-code: the code of {model_type} is another package's, and not sent along: leave the option out"
        )


def _enter(file: Path, kinds: dict[str, type]) -> list[str]:
    """Write into a JSON file which class each of transformers' Auto classes finds where; return their modules."""
    found = {auto: f"{_flat(kind.__module__)}.{kind.__name__}" for auto, kind in kinds.items()}
    write_json(file, {**read_json(file, ""), "auto_map": found})
    return [kind.__module__ for kind in kinds.values()]


def _closure(modules: Iterable[str]) -> dict[str, str]:
    """Return the texts of modules and of all that they import of lt25's, by the modules' names."""
    found: dict[str, str] = {}
    left = list(modules)
    while left:
        if (module := left.pop()) not in found:
            found[module], imported = _rewritten(module)
            left += imported
    return found


def _rewritten(module: str) -> tuple[str, list[str]]:
    """Return a module's text, in which it imports the files beside it, and the modules that these are of."""
    text = Path(str(find_spec(module).origin)).read_text(encoding="utf-8")  # pyright: ignore[reportOptionalMemberAccess]
    lines, imported = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("lt25."):
            continue
        instead = []
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            is_module = isinstance(getattr(import_module(str(node.module)), alias.name, None), ModuleType)
            taken, name = (whole, _WHOLE) if is_module else (str(node.module), alias.name)
            imported.append(taken)
            instead.append(f"{' ' * node.col_offset}from .{_flat(taken)} import {name} as {alias.asname or alias.name}")
        end = node.end_lineno or node.lineno
        lines[node.lineno - 1 : end] = ["\n".join(instead), *[""] * (end - node.lineno)]
    # Operators of another name than those of lt25, which may be there too.
    body = "\n".join(lines).replace('"lt25::', '"lt25_code::')
    return _HEAD.format(version=version("lt25")) + body + _END + (
        _BACKENDS_END if module == _BACKENDS else ""
    ), imported


def _flat(module: str) -> str:
    return module.replace(".", "_")
