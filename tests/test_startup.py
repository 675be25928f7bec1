"""What a command imports: a mistake is answered before torch is imported."""

import subprocess
import sys

import pytest

from lt25.files import write_record
from tests import tiny

HEAVY = ("torch", "transformers", "pandas", "numba", "matplotlib", "datasets", "snakemake")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with an experiment that is prepared, and one that is trained as far as its record says."""
    root = tiny.make_project(tmp_path_factory.mktemp("startup"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tiny.write_experiment(root, "classification", "untrained", prepare={"layout": "rows"})
        trained = tiny.tiny(root, "classification", "trained")
        record = {"steps": 12, "checkpoints": [4, 8, 12], "run_dir": "runs/abc", "identity": {}, "path": []}
        write_record(trained.results_dir / "train.json", record)
        for step in (4, 8):
            (trained.results_dir / "runs" / "abc" / "checkpoints" / f"step-{step}").mkdir(parents=True)
        text = (root / "config" / "experiments" / "trained.yaml").read_text()
        (root / "config" / "experiments" / "invalid.yaml").write_text(f"{text}\nunknown: 1\n")
    return root


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("download nosuch", "no such dataset file"),
        ("prepare nosuch", "no such experiment file"),
        ("configure untrained", "lt25 prepare untrained"),
        ("train invalid", "unknown: unknown key"),
        ("train untrained", "lt25 prepare untrained"),
        ("export nosuch", "no such experiment file"),
        ("export untrained", "lt25 train untrained"),
        ("export trained --step 4 5", "no checkpoint of step 5 is kept: there are 4, 8, 12"),
        ("evaluate trained", "run `lt25 export trained` first"),
        ("evaluate trained --step 4", "run `lt25 export trained --step 4` first"),
        ("evaluate trained --export --step 5", "no checkpoint of step 5 is kept"),
        ("generate nosuch", "no such experiment file"),
        ("generate trained", "does classification: expected an experiment of language_modeling"),
        ("generate trained --top_p 2", "--top_p: found 2.0, expected above 0"),
        ("report nosuch", "no such experiment file"),
        ("report trained", "lt25 evaluate trained"),
    ],
)
def test_a_mistake_is_answered_before_anything_heavy_is_imported(project, command, message):
    script = f"""
import sys
sys.argv = ["lt25"]
from lt25 import cli
status = cli.main({command.split()!r})
print(status, *sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project,
        env=tiny.environment(),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1].startswith("lt25: error: ")
    assert message in done.stderr
    assert done.stdout == "2\n"


UNUSED = ("sympy", "torch._dynamo", "torch._inductor", "scipy", "sklearn", "datasets")


def test_what_is_left_out_of_the_imports_is_there_when_it_is_used():
    script = f"""
import sys
sys.argv = ["lt25"]
from lt25.importing import without_compiler
with without_compiler():
    import lt25.checkpoints.convert, lt25.evaluation.run, lt25.models.auto
print(*sorted(set({UNUSED!r}) & set(sys.modules)))
import torch, transformers.masking_utils
from torch.distributed.tensor._ops import _tensor_ops
assert _tensor_ops.statically_known_true(True)
with transformers.masking_utils.TransformGetItemToIndex():
    pass
assert torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)) == 1
assert torch.compiler.disable.__module__ == "torch.compiler"
assert "torch._dynamo" in sys.modules
assert hasattr(torch.fx.experimental.symbolic_shapes, "ShapeEnv")
"""
    done = subprocess.run([sys.executable, "-c", script], env=tiny.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"


def test_a_library_that_imports_the_compiler_is_imported_all_the_same():
    script = """
import sys
sys.argv = ["lt25"]
import torch
from lt25.importing import _undecorated
with _undecorated(torch):
    import torch._dynamo.utils
    assert torch._dynamo.utils.is_compile_supported
assert torch._dynamo is sys.modules["torch._dynamo"]
"""
    done = subprocess.run([sys.executable, "-c", script], env=tiny.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_function_is_compiled_when_it_is_called(monkeypatch):
    import torch

    from lt25.importing import compiling_when_called

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or function)
    with compiling_when_called():
        plain, whole = torch.compile(lambda x: x + 1), torch.compile(fullgraph=True)(lambda x, by=1: x * by)
    assert not compiled
    assert plain(1) == plain(1) == 2 and compiled == [{}]
    assert whole(3, by=2) == 6 and compiled == [{}, {"fullgraph": True}]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert plain(1) == 2 and len(compiled) == 2
