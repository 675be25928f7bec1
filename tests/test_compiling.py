"""Kernels are compiled before they are launched, and the configurations of one that is tuned before the first is timed."""

import threading

import pytest
import torch

pytest.importorskip("triton")


class Driver:
    """Enough of a GPU's driver to compile for one."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    @property
    def launcher_cls(self):
        raise AssertionError("a kernel is launched")


@pytest.fixture(autouse=True)
def compiled(tmp_path, monkeypatch):
    """Return a function that tells how many kernels of a name have been compiled."""
    import triton
    from triton.runtime import driver
    from triton.runtime.autotuner import Autotuner

    if triton.knobs.runtime.interpret:
        pytest.skip("Triton interprets")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", Driver())
    for changed in ("_bench", "do_bench"):
        monkeypatch.setattr(Autotuner, changed, getattr(Autotuner, changed))
    return lambda name: len(list(tmp_path.rglob(f"{name}.cubin")))


def test_kernels_are_compiled_on_any_thread_and_not_launched(compiled):
    from lt25.compiling import compile_ahead
    from tests.kernel import add

    x = torch.zeros(64)

    def launch():
        add[(1,)](x, 1.0, BLOCK=64)
        backward = threading.Thread(target=lambda: add[(1,)](x, 1.0, BLOCK=32))
        backward.start()
        backward.join()

    compile_ahead(launch)
    assert compiled("add") == 2
    assert add.warmup(x, 1.0, BLOCK=32, grid=(1,)).asm["ptx"]
    with pytest.raises(AssertionError, match="is launched"):
        add[(1,)](x, 1.0, BLOCK=64)


def test_a_launch_that_is_kept_is_compiled_and_not_launched(compiled, monkeypatch):
    from lt25.compiling import compile_ahead
    from lt25.ops.backends import triton_launch
    from tests.kernel import add

    monkeypatch.setattr(triton_launch, "_device", lambda tensor: 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    launch = triton_launch.Launch(add, (1,), 1.0, BLOCK=16)
    compile_ahead(lambda: launch(torch.zeros(16)))
    assert compiled("add") == 1 and not launch.compiled


def test_a_tuner_times_one_configuration_when_all_of_them_are_compiled(compiled, monkeypatch):
    from triton.runtime.autotuner import Autotuner

    from lt25.compiling import tune_quickly
    from tests.kernel import tuned_add

    there = []

    def time_one(call, quantiles):
        there.append(compiled("tuned_add"))
        return [4.0 - len(there)] * 3

    tune_quickly()
    monkeypatch.setattr(Autotuner, "do_bench", property(lambda tuner: time_one))
    with pytest.raises(AssertionError, match="is launched"):
        tuned_add[(1,)](torch.zeros(64), 1.0)
    assert there == [3, 3, 3]
    assert tuned_add.best_config.kwargs == {"BLOCK": 128}
