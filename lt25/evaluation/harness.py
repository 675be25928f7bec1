"""Tasks of EleutherAI's lm-eval, by name. The package is not among lt25's own requirements."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from lt25.errors import UserError
from lt25.experiment import hub_mirror
from lt25.models.families import window_of
from lt25.replaced import replaced

# lm-eval cuts longer texts from the left. Attention may be made for fewer steps; a recurrent model has no limit of its own.
MAX_LENGTH = 2048


def require(names: Sequence[str], root: Path) -> None:
    """Refuse tasks that cannot be run: without importing anything, so that it is said at once.

    Args:
        names: the experiment's ``evaluation.lm_eval``.
        root: the project, from which paths are taken.

    Raises:
        UserError: if there are any and lm-eval is not installed, or the file of one is missing.
    """
    if names and importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            f"evaluation.lm_eval: found {', '.join(names)}, but lm-eval is not installed: pip install 'lm-eval[hf]', or "
            f"remove the key"
        )
    for name in names:
        if _is_file(name) and not (root / name).is_file():
            raise UserError(f"evaluation.lm_eval: {name}: no such file in {root}: correct the path")


def scores(
    model: Any, tokenizer: Any, names: Sequence[str], batch_size: int, root: Path
) -> dict[str, dict[str, float]]:
    """Run tasks on a causal language model.

    Args:
        model: in evaluation mode on its device.
        tokenizer: its tokenizer, with an end token.
        names: of tasks or groups of lm-eval's, or YAML files of tasks of one's own, by their paths from the project.
        batch_size: texts at once.
        root: the project.

    Returns:
        Task -> metric -> value, as lm-eval names them: {"lambada_openai": {"acc": 0.41, "acc_stderr": 0.007, ...}}.

    Raises:
        UserError: if lm-eval does not know a task, or cannot get its data.
    """
    import datasets
    from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]  (may be absent)
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    tasks = [yaml.safe_load((root / name).read_text(encoding="utf-8")) if _is_file(name) else name for name in names]
    length = min(MAX_LENGTH, window_of(model.config) or MAX_LENGTH)
    reader = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=length)
    try:
        with replaced(datasets, "load_dataset", _mirrored(datasets.load_dataset)):
            found = simple_evaluate(reader, tasks=tasks, log_samples=False)
    except (KeyError, ValueError, OSError) as error:
        reason = (str(error).strip("\"' \n") or type(error).__name__).splitlines()[0]
        raise UserError(
            f"evaluation.lm_eval: {', '.join(names)}: {reason}: correct the name, or give a mirror"
        ) from error
    assert found is not None
    # lm-eval writes "acc,none", the filter after the comma.
    return {
        task: {key.removesuffix(",none"): float(value) for key, value in rows.items() if isinstance(value, int | float)}
        for task, rows in found["results"].items()
    }


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _mirrored(load: Callable[..., Any]) -> Callable[..., Any]:
    """`datasets.load_dataset` that looks into the local mirror of the Hub first."""
    mirror = hub_mirror()

    def load_dataset(path: str, *arguments: Any, **options: Any) -> Any:
        inside = mirror / path if mirror is not None else None
        return load(str(inside) if inside is not None and inside.is_dir() else path, *arguments, **options)

    return load_dataset
