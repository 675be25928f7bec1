"""What every trainer and command of lt25 does before its own work: imported by the processes that others are forked from."""

import gc
from importlib import import_module

from lt25.importing import without_garbage
from lt25.replaced import replaced

TASKS = ("classification", "speech_recognition", "language_modeling")

with without_garbage():
    import lt25.training.__main__  # isort: skip  (lt25 answers for a CPU before torchtitan asks for a device)

    import networkx
    import numba
    import typeguard
    from torchtitan.config import ConfigManager

    import lt25.checkpoints.convert
    import lt25.data.prepare
    import lt25.evaluation.run
    import lt25.report.page  # noqa: F401

    for stage in ("data", "evaluation", "report"):
        for task in TASKS:
            import_module(f"lt25.{stage}.{task}")

    assert networkx and typeguard
    # The reader of arguments imports half of itself for the first ones, and numba sets its compiler up for the first function.
    ConfigManager().parse_args([])
    # Numba refuses to the children of a process that has started OpenMP to use it: they start it themselves.
    with replaced(numba, "set_num_threads", lambda threads: None):
        for kind in ("conv", "dropout", "mix", "rows", "scan", "step"):
            import_module(f"lt25.ops.backends.numba_{kind}")
    numba.njit(lambda number: number)(1)

# A collection would touch, and so copy, what all have in common.
gc.collect()
gc.freeze()
