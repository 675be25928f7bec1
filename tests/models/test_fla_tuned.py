"""Configurations of FLA's kernels that come with the package."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.autotuner import Config

from lt25.models import fla_tuned
from tests.tiny import REPOSITORY

FILES = sorted(fla_tuned.TUNED.glob("*.json"))


def fake(name, *configs):
    return SimpleNamespace(base_fn=SimpleNamespace(__name__=name), configs=list(configs), cache={})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_most_configurations_are_among_those_that_flas_kernels_have(file):
    import fla.models  # noqa: F401

    known, used = json.loads(file.read_text()), set()
    for tuner in fla_tuned.tuners():
        before = dict(tuner.cache)
        fla_tuned.hand_over(known, iter([tuner]))
        used |= {(tuner.base_fn.__name__, key) for key in tuner.cache}
        tuner.cache = before
    given = {(kernel, tuple(entry["key"])) for kernel, entries in known.items() for entry in entries}
    assert used <= given
    # Which configurations a kernel has depends on the GPU.
    assert len(used) > 0.5 * len(given)


def test_a_tuner_takes_what_is_among_its_own():
    narrow, wide = Config({"B": 16}, num_warps=4, num_stages=2), Config({"B": 32}, num_warps=4, num_stages=2)
    same, other = fake("norm", narrow, wide), fake("norm", Config({"BT": 32}, num_warps=4, num_stages=2))
    unknown = fake("sum", narrow, wide)
    known = {"norm": [{"key": [64, True, "torch.float32"], "config": fla_tuned.describe(wide)}]}
    fla_tuned.hand_over(known, iter([same, other, unknown]))
    assert same.cache == {(64, True, "torch.float32"): wide} and same.cache[64, True, "torch.float32"] is wide
    assert not other.cache and not unknown.cache


def test_they_are_used_on_a_gpu_of_their_kind_alone(monkeypatch):
    handed = []
    monkeypatch.setattr(fla_tuned, "hand_over", lambda known, found: handed.append(known))
    fla_tuned.use_tuned()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability in ((3, 5), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        fla_tuned.use_tuned()
    assert handed[-1] == json.loads((fla_tuned.TUNED / "sm90.json").read_text())
    assert len(handed) == 1 or torch.cuda.is_available()


@pytest.fixture
def tuned():
    spec = importlib.util.spec_from_file_location("tuned", REPOSITORY / "benchmarks" / "tuned.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fastest_is_collected_and_two_kernels_of_one_name_and_key_are_left_out(tuned, tmp_path):
    def note(folder, kernel, key, *timed):
        configs = [
            [
                {"kwargs": kwargs, "num_warps": 4, "num_ctas": 1, "num_stages": 2, "maxnreg": None, "pre_hook": None},
                times,
            ]
            for kwargs, times in timed
        ]
        (tmp_path / folder).mkdir(exist_ok=True)
        noted = {"key": key, "configs_timings": configs}
        (tmp_path / folder / f"{kernel}.autotune.json").write_text(json.dumps(noted))

    fails = ({"B": 8}, [float("inf")] * 3)
    note("a", "norm", [64, "torch.float32"], ({"B": 16}, [2.0, 1.9, 2.1]), ({"B": 32}, [1.0, 0.9, 1.1]), fails)
    note("a", "never", [64], fails)
    note("a", "twice", [64], ({"B": 16}, [1.0]))
    note("b", "twice", [64], ({"BT": 16}, [1.0]))
    found = tuned.collect(tmp_path)
    assert list(found) == ["norm"]
    (entry,) = found["norm"]
    said = fla_tuned.describe(Config({"B": 32}, num_warps=4, num_stages=2))
    assert entry == {"key": [64, "torch.float32"], "config": said}
