"""lt25: from a dataset's name to a trained, exported, evaluated and reported linear recurrent network."""

import sys
from pathlib import Path


def register() -> None:
    """Make transformers' Auto classes and pipelines know lt25's models and feature extractors.

    `import lt25` calls it; to call it again changes nothing.
    """
    from lt25.data import features
    from lt25.models import auto  # noqa: F401  (importing it enters the models)

    features.register()


def _is_own_command() -> bool:
    """Tell whether this process is `lt25 ...`, `python -m lt25...`, or Snakemake with lt25's rules."""
    if sys.argv[:1] == ["-m"]:  # Python is still looking for the module to run.
        after = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
        program = next((name for flag, name in after if flag.startswith("-") and flag.endswith("m")), "")
    elif Path(__file__).parent in Path(sys.argv[0] if sys.argv else "").parents:
        # The module is found, and its file stands there: in processes that such a command has started.
        return True
    else:
        path = Path(sys.argv[0] if sys.argv else "")
        # Snakemake starts its jobs with `python -m snakemake`, which is this by the time that it reads the rules.
        program = path.parent.name if path.name == "__main__.py" else path.name
    return program.partition(".")[0] in ("lt25", "snakemake")


# transformers' Auto classes cannot be had without torch, and the two take seconds to import. A program that imports lt25 wants
# them. lt25's own commands have to answer before that, and register where they come to use a model.
if not _is_own_command():
    register()
