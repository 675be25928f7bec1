"""What `training.float8` asks of torchtitan, and where it is refused."""

import json

import pytest
import torch
from torchtitan.config import ConfigManager, JobConfig

from lt25.errors import UserError
from lt25.training import float8
from lt25.training.job_config import JobConfig as Added
from tests.tiny import MODEL


@pytest.fixture
def job(tmp_path):
    made = ConfigManager._merge_configs(JobConfig, Added)()
    made.training.float8 = "rowwise"
    made.lt25.model_config = str(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    return made


def test_without_the_key_nothing_is_converted(job):
    job.training.float8 = None
    float8.use_float8(job)
    assert job.model.converters == []


@pytest.mark.parametrize("capability", [None, (8, 0)], ids=["CPU", "A100"])
def test_a_device_without_such_products_is_refused(job, capability, monkeypatch):
    monkeypatch.setattr(float8, "DEVICE_TYPE", "cuda" if capability else "cpu")
    monkeypatch.setattr(float8, "device_name", lambda: "this one")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(UserError, match=r"^training.float8: found rowwise, but this one has no products in float8"):
        float8.use_float8(job)


@pytest.mark.parametrize("there", [False, True])
def test_layers_are_converted_and_heads_are_not(job, there, monkeypatch):
    monkeypatch.setattr(float8, "DEVICE_TYPE", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(float8, "find_spec", lambda name: there or None)
    if not there:
        with pytest.raises(UserError, match="needs the package torchao: install it"):
            float8.use_float8(job)
        return
    float8.use_float8(job)
    assert job.model.converters == ["quantize.linear.float8"]
    asked = job.quantize.linear.float8
    assert asked.recipe_name == "rowwise"
    assert "hf.lm_head" in asked.filter_fqns and not any("layers" in name for name in asked.filter_fqns)
