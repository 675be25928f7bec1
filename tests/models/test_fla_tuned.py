"""Configurations of FLA's kernels that come with the package."""

import importlib.util
import json

import pytest
import torch
from fla.ops.utils import cache

from lt25.models import fla_tuned
from tests.tiny import REPOSITORY

FILES = sorted(fla_tuned.TUNED.rglob("*.json"))


def test_each_file_is_one_that_fla_reads_and_each_entry_is_found_by_its_key():
    assert FILES
    for file in FILES:
        read = cache.KernelConfigFile.from_file(file)
        assert read is not None and read.kernel_name == file.stem
        for entry in read.autotune_entries.values():
            key = cache.AutotuneKey(tuple(entry["autotune_key"]))
            assert read.lookup_exact(key) is entry
            assert {"kwargs", "num_warps", "num_stages", "num_ctas"} <= entry["config"].keys()


def test_they_are_used_on_a_gpu_of_their_kind_alone(monkeypatch):
    monkeypatch.delenv("FLA_CONFIG_DIR", raising=False)
    monkeypatch.delenv("FLA_CACHE_MODE", raising=False)
    # Set again when the test ends.
    monkeypatch.setattr(cache, "FLA_CACHE_MODE", cache.FlaCacheMode.DISABLED)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (3, 5))
    fla_tuned.use_tuned()
    assert cache.FLA_CACHE_MODE is cache.FlaCacheMode.DISABLED
    monkeypatch.setenv("FLA_CONFIG_DIR", "")
    monkeypatch.delenv("FLA_CONFIG_DIR")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    fla_tuned.use_tuned()
    assert cache.FLA_CACHE_MODE is cache.FlaCacheMode.STRICT
    entry = next(iter(json.loads(FILES[0].read_text())["autotune_entries"].values()))
    assert cache.load_cached_config(FILES[0].stem, cache.AutotuneKey(tuple(entry["autotune_key"]))) == entry["config"]


@pytest.fixture
def tuned(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    spec = importlib.util.spec_from_file_location("tuned", REPOSITORY / "benchmarks" / "tuned.py")
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
    (entry,) = found["norm"].values()
    assert entry["autotune_key"] == [64, "torch.float32"] and entry["config"]["kwargs"] == {"B": 32}
    assert "pre_hook" not in entry["config"]
