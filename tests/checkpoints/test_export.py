"""From a checkpoint to a Hugging Face folder and back."""

import ast
import dataclasses
import json
import shutil
import sys

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoFeatureExtractor, dynamic_module_utils

from lt25 import provenance
from lt25.checkpoints import convert, plain
from lt25.checkpoints.code import check_own
from lt25.checkpoints.export import export
from lt25.errors import UserError
from lt25.evaluation import believe_model
from lt25.experiment import TASKS, load_experiment
from lt25.files import believe, write_record
from lt25.models.auto import auto_class
from tests import tiny

SECTIONS = {"language_modeling": {"model": {"tie_word_embeddings": True}}}
SHARDED = {"data_parallel_shard_degree": 2}


@pytest.fixture(scope="module", params=TASKS)
def trained(request, tmp_path_factory):
    """A tiny experiment of each task, trained by two processes, so that its checkpoints are in two parts."""
    root = tiny.make_project(tmp_path_factory.mktemp(request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        experiment = tiny.tiny(root, request.param, parallelism=SHARDED, **SECTIONS.get(request.param, {}))
        done = tiny.train(experiment, processes=2)
        assert done.returncode == 0, done.stderr
        yield experiment


def inputs(experiment):
    torch.manual_seed(0)
    if experiment.task in ("language_modeling", "recall"):
        return {"input_ids": torch.randint(1, 11, (2, 9))}
    size = tiny.DECIDED[experiment.task]["input_size"]
    return {"input_features": torch.randn(2, 9, size), "attention_mask": torch.tensor([[1] * 9, [1] * 5 + [0] * 4])}


def test_logits_are_equal_before_and_after_and_a_step_has_its_own_folder(trained):
    config = AutoConfig.from_pretrained(trained.results_dir / "model")
    for step, folder in ((None, "hf"), (4, "hf/step-4")):
        before = auto_class(trained.task).from_config(config).eval()
        weights = tiny.weights(trained, step or 12)
        before.load_state_dict(weights)
        export(trained, [step] if step else [])
        after = auto_class(trained.task).from_pretrained(trained.results_dir / folder).eval()
        with torch.no_grad():
            assert torch.equal(before(**inputs(trained)).logits, after(**inputs(trained)).logits)
        record = json.loads((trained.results_dir / folder / "export.json").read_text())
        assert record["step"] == (step or 12)
    export(trained)
    assert (trained.results_dir / "hf" / "step-4" / "config.json").is_file()
    assert not list(trained.results_dir.glob(".hf*"))


def test_the_mean_of_checkpoints_is_exported_and_said_to_be_one(trained):
    one = load_experiment(trained.path)
    export(one)
    averaging = load_experiment(trained.path, ["checkpoint.average=3"])
    assert averaging.results_dir == one.results_dir, "no other training"
    with pytest.raises(
        UserError, match=r"hf: exported from .*-12, and what was trained is .*-4-8-12: run `lt25 export tiny"
    ):
        believe_model(averaging, one.results_dir / "hf")
    export(averaging)
    folder = one.results_dir / "hf"
    record = believe_model(averaging, folder)
    assert (record["step"], record["averaged"]) == (12, [4, 8, 12])
    assert (
        record["fingerprint"].endswith("-4-8-12") and "the mean of 4, 8, 12 of 12" in (folder / "README.md").read_text()
    )
    assert "    averaged: 4, 8, 12" in provenance.tell(str(folder))
    steps = [tiny.weights(one, step) for step in (4, 8, 12)]
    exported = auto_class(one.task).from_pretrained(folder).state_dict()
    for name, tensor in exported.items():
        mean = torch.stack([weights[name] for weights in steps]).double().mean(0)
        torch.testing.assert_close(tensor, mean.to(tensor.dtype), rtol=0, atol=1e-7)
        assert not torch.equal(tensor, steps[-1][name]) or torch.equal(steps[0][name], steps[-1][name])
    export(averaging, [8])
    assert "averaged" not in believe_model(averaging, folder / "step-8"), "a step alone is that step"
    export(one)


def test_steps_in_one_process_are_exported_as_one_by_one(trained):
    def files():
        folder = trained.results_dir / "hf"
        return {file.relative_to(folder): file.read_bytes() for file in folder.glob("step-*/*")}

    export(trained, [4])
    export(trained, [8])
    alone = files()
    export(trained, [4, 8])
    assert alone
    assert files() == alone


def test_the_code_beside_the_weights_computes_the_same_without_lt25(trained, tmp_path, monkeypatch):
    # Apart from what other tests have imported under this name.
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    # Of an earlier step, so that the other tests find the folder of the last one as it was.
    export(trained, [4], with_code=True)
    folder = trained.results_dir / "hf/step-4"
    record = believe(folder / "export.json", "lt25 export")
    modules = [name for name in record["files"] if name.endswith(".py")]
    for name in modules:
        nodes = [node for node in ast.walk(ast.parse((folder / name).read_text())) if isinstance(node, ast.ImportFrom)]
        assert not [node.module for node in nodes if node.level == 0 and str(node.module).startswith("lt25")], name
    # As transformers does where lt25 is not imported: where it is, its own classes are taken.
    entries = json.loads((folder / "config.json").read_text())["auto_map"]
    auto, fed = auto_class(trained.task), inputs(trained)
    own = auto.from_pretrained(folder).eval()
    brought = dynamic_module_utils.get_class_from_dynamic_module(entries[auto.__name__], folder)
    assert brought.__module__.startswith("transformers_modules.") and brought.config_class is not type(own).config_class
    brought = brought.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(brought(**fed).logits, own(**fed).logits, rtol=1e-4, atol=1e-5)
    if "preprocessor_config.json" in record["files"]:
        entry = json.loads((folder / "preprocessor_config.json").read_text())["auto_map"]["AutoFeatureExtractor"]
        extractor = dynamic_module_utils.get_class_from_dynamic_module(entry, folder)
        assert (
            extractor.from_pretrained(folder).to_dict().keys()
            == AutoFeatureExtractor.from_pretrained(folder).to_dict().keys()
        )
    if hasattr(brought, "lm_head"):
        prompt = fed["input_ids"][:, :4]
        said = [model.generate(prompt, max_new_tokens=5, do_sample=False) for model in (own, brought)]
        assert torch.equal(*said)
    # Without the option the code is gone again.
    export(trained, [4])
    assert not [*folder.glob("*.py")] and "auto_map" not in (folder / "config.json").read_text()


def test_the_code_of_another_package_is_not_sent_along():
    with pytest.raises(UserError, match="the code of llama is another package's"):
        check_own("llama")


def test_a_folder_goes_back_to_a_checkpoint_with_the_same_weights(trained, tmp_path):
    export(trained)
    convert.import_model(trained.results_dir / "hf", tmp_path / "step-0")
    back = convert.read_weights(tmp_path / "step-0")
    assert tiny.same_weights(back, tiny.weights(trained, 12))
    with pytest.raises(UserError, match="is there already"):
        convert.import_model(trained.results_dir / "hf", tmp_path / "step-0")
    with pytest.raises(UserError, match="expected a Hugging Face folder"):
        convert.import_model(tmp_path, tmp_path / "step-1")


def test_the_model_card_says_what_is_true(trained):
    export(trained)
    card = (trained.results_dir / "hf" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    marker = json.loads((trained.results_dir / "train.json").read_text())
    for fact in (f"{marker['parameters']:,} parameters", marker["fingerprint"], "12 of 12", marker["device"]):
        assert fact in text
    assert f'"results/{trained.name}/hf"' in text


@pytest.mark.parametrize("trained", ["speech_recognition"], indirect=True)
def test_a_recogniser_tells_how_its_transcripts_were_normalised(trained):
    options = {"transcripts": {"punctuation": "keep"}, "alphabet": "ab,"}
    other = dataclasses.replace(trained, prepare={**trained.prepare, **options})
    shutil.copytree(trained.processed_dir, other.processed_dir)
    export(other)
    told = json.loads((other.results_dir / "hf" / "tokenizer_config.json").read_text())
    assert {key: told[key] for key in options} == options and told["tokenizer_class"] == "Wav2Vec2CTCTokenizer"
    believe(other.results_dir / "hf" / "export.json", "export")
    export(trained)


@pytest.mark.parametrize("trained", ["classification"], indirect=True)
def test_only_the_weights_are_read(trained, monkeypatch):
    asked, load = [], plain.dcp.load
    monkeypatch.setattr(plain.dcp, "load", lambda states, **options: asked.extend(states) or load(states, **options))
    weights = convert.read_weights(trained.results_dir / "checkpoints" / "step-12")
    stored = plain.read_metadata(trained.results_dir / "checkpoints" / "step-12").state_dict_metadata
    assert len(asked) == len(weights)
    assert all(name.startswith("hf.") for name in asked)
    assert any("exp_avg" in name for name in stored)


@pytest.mark.parametrize("trained", ["language_modeling"], indirect=True)
def test_a_model_is_not_exported_with_what_belongs_to_other_data(trained):
    """Its tokens would mean something else."""
    record = trained.processed_dir / "stats.json"
    kept = record.read_bytes()
    tiny.prepare(trained, seed=1)
    try:
        with pytest.raises(
            UserError, match=r"of the data language_modeling-0, and .* holds language_modeling-1: run `lt25 train"
        ):
            export(trained)
    finally:
        tiny.prepare(trained)
    assert record.read_bytes() == kept


@pytest.mark.parametrize("trained", ["classification"], indirect=True)
def test_what_cannot_be_exported_is_one_line(trained):
    with pytest.raises(UserError, match=r"no checkpoint of step 5 is kept: there are 4, 8, 12"):
        export(trained, [5])
    data = next((trained.results_dir / "checkpoints" / "step-8").glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"step-8: .* bytes instead of .*: run `lt25 train tiny`"):
        export(trained, [8])
    untrained = tiny.write_experiment(trained.root, "classification", "untrained")
    with pytest.raises(UserError, match="run `lt25 train untrained` first"):
        export(untrained)


@pytest.mark.parametrize(
    ("enabled", "left", "said"),
    [
        (True, ["export", "evaluate"], "no checkpoint of step 4 is kept: there are none: run `lt25 train tiny`"),
        (False, [], "checkpoint.enable: false, so there is nothing to export: set it to true"),
    ],
)
def test_a_training_without_checkpoints_is_not_exported(tmp_path, monkeypatch, enabled, left, said):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiment = tiny.write_experiment(tmp_path, "classification", checkpoint={"enable": enabled})
    tiny.prepare(experiment)
    trained = {"run_dir": "runs/1", "fingerprint": "1", "checkpoints": [], "steps": 4}
    write_record(experiment.results_dir / "train.json", trained)
    manifest = experiment.raw_dir_of(experiment.dataset) / "SOURCE.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    assert list(experiment.missing()) == left
    with pytest.raises(UserError, match=said):
        export(experiment)
