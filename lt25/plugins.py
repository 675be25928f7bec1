"""A project's own Python, which may add tasks (`lt25.tasks.register`) and model families (`lt25.models.families.register`).

config/config.yaml names it under ``plugins``: a file or a package by its path from the project, or a module by its name.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from lt25.errors import UserError


def load(root: Path, names: Iterable[str], registered: Callable[[], object] | None = None) -> None:
    """Import plugins, each once in a process.

    A file or package becomes the module of its name without ``.py``: examples/regression is imported as ``regression``.

    Args:
        root: the project's directory.
        names: what config/config.yaml lists.
        registered: returns what plugins have registered up to now; one that leaves it as it was is refused.

    Raises:
        UserError: if a plugin is not there, its name is another module's, its import fails, or it registers nothing: which, where
            and why.
    """
    for name in names:
        where = f"config/config.yaml: plugins: {name}"
        path = (root / name).resolve()
        modules, before = set(sys.modules), registered and registered()
        try:
            if path.exists():
                module = _import_path(path, where)
            elif "/" in name or name.endswith(".py"):
                raise UserError(f"{where}: no such file or package in {root}: correct the path")
            else:
                module = importlib.import_module(name)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{where}: {_place(error)}{type(error).__name__}: {error}") from error
        own = [module for module in sys.modules.keys() - modules if module.split(".")[0] == path.stem.split(".")[0]]
        if own and registered and registered() == before:
            # The next experiment is told the same.
            for module in own:
                del sys.modules[module]
            raise UserError(
                f"{where}: registers no task and no model family: call lt25.tasks.register or lt25.models.families.register in "
                "it, or remove it from the list"
            )
        file = Path(str(module.__file__))
        _HOMES.add(file.parent if file.name == "__init__.py" else file)


def fault(error: BaseException) -> str | None:
    """Say in one line what code of a plugin has raised, and where in it; None where an exception passed through none."""
    file, line = getattr(error, "filename", None), getattr(error, "lineno", None)
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places += [(file, line)] if isinstance(error, SyntaxError) and file else []
    own = [place for place in places if any(home == (at := Path(place[0])) or home in at.parents for home in _HOMES)]
    if not own:
        return None
    said = (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{own[-1][0]}:{own[-1][1]}: {type(error).__name__}: {said}"


_HOMES: set[Path] = set()
"""Files and folders of the plugins that are loaded."""


def _import_path(path: Path, where: str) -> ModuleType:
    """Import a file, or a package with ``__init__.py``, without a change of ``sys.path``."""
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{where}: a folder without __init__.py: name a .py file or a package")
    name = path.stem
    if (there := sys.modules.get(name)) is not None:
        if getattr(there, "__file__", None) != str(file):
            raise UserError(f"{where}: there is another module called {name}: rename yours")
        return there
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise UserError(f"{where}: there is another module called {name}: rename yours")
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(path)] if path.is_dir() else None
    )
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: no Python file: name a .py file or a package")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(error: Exception) -> str:
    """Return ``file:line: `` of the code that failed; nothing for a module that was not found at all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames and frames[-1].filename != __file__ else ""
