"""lm-eval, which is not installed for the tests: a stand-in for its two modules."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import datasets
import pytest
from transformers import LlamaConfig

from lt25.errors import UserError
from lt25.evaluation import harness


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    harness.require([], tmp_path)
    with pytest.raises(UserError, match=r"found piqa, but lm-eval is not installed: pip install 'lm-eval\[hf\]'"):
        harness.require(["piqa"], tmp_path)


MODEL = SimpleNamespace(config=SimpleNamespace(model_type="lt25_hgrn"))


@pytest.fixture
def installed(monkeypatch):
    """Modules of lm-eval that know one task, `known`, and load a dataset for it."""
    asked = []
    evaluator, huggingface = ModuleType("lm_eval.evaluator"), ModuleType("lm_eval.models.huggingface")

    def simple_evaluate(reader, tasks, log_samples):
        asked.append((reader, tasks, datasets.load_dataset("owner/name", split="test")))
        if tasks == ["unknown"]:
            raise KeyError("Unknown task/group/tag: 'unknown'")
        return {"results": {"known": {"alias": "known", "acc,none": 0.5, "acc_stderr,none": 0.1}}}

    vars(evaluator)["simple_evaluate"] = simple_evaluate
    vars(huggingface)["HFLM"] = lambda **options: options
    for module in (ModuleType("lm_eval"), ModuleType("lm_eval.models"), evaluator, huggingface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: path)
    return asked


def test_scores_have_plain_names_and_data_comes_from_the_mirror(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("LT25_HUB_MIRROR", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    assert harness.scores(MODEL, "tokenizer", ["known", "mine.yaml"], 4, tmp_path) == {
        "known": {"acc": 0.5, "acc_stderr": 0.1}
    }
    reader, tasks, data = installed[0]
    assert reader["pretrained"] is MODEL and (reader["batch_size"], reader["max_length"]) == (4, 2048)
    assert tasks == ["known", {"task": "mine"}]
    assert data == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    harness.scores(MODEL, "tokenizer", ["known"], 4, tmp_path)
    assert installed[1][2] == str(tmp_path / "owner" / "name")


def test_texts_are_no_longer_than_what_attention_is_made_for(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("LT25_HUB_MIRROR", str(tmp_path))
    for positions, length in ((512, 512), (8192, 2048)):
        model = SimpleNamespace(config=LlamaConfig(max_position_embeddings=positions))
        harness.scores(model, "tokenizer", ["known"], 4, tmp_path)
        assert installed[-1][0]["max_length"] == length


def test_an_unknown_task_is_one_line(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("LT25_HUB_MIRROR", str(tmp_path))
    with pytest.raises(UserError, match=r"evaluation.lm_eval: unknown: Unknown task/group/tag: 'unknown"):
        harness.scores(MODEL, "tokenizer", ["unknown"], 4, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    with pytest.raises(UserError, match=r"nosuch.yaml: no such file"):
        harness.require(["nosuch.yaml"], tmp_path)
