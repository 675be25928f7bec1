"""The whole evaluation of real, untrained models of each task on a handful of made-up examples."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Wav2Vec2CTCTokenizer,
)

import lt25  # noqa: F401
from lt25 import evaluation
from lt25.config.key import resolve
from lt25.data.shards import SplitWriter
from lt25.errors import UserError
from lt25.evaluation import evaluate
from lt25.evaluation import language_modeling as language
from lt25.evaluation.run import load_model
from lt25.experiment import Dataset, Experiment
from lt25.files import write_record
from lt25.models.configuration import HGRNConfig
from lt25.tasks import TASKS

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "use_short_conv": True, "initializer_range": 0.3}
TEXTS = ["import os\n\nprint(os.name)\n" * 20, "x = 1\n", "def f(a):\n    return a\n" * 3]


def experiment_of(root: Path, task: str, **evaluation) -> Experiment:
    dataset = Dataset("made-up", "Made up", "none", "", {}, {}, {})
    path = Path("config/experiments/tiny.yaml")
    model = {"model_type": "lt25_hgrn"}
    evaluation = resolve(evaluation, TASKS[task].evaluation)
    return Experiment("tiny", path, root, task, dataset, {}, model, None, evaluation, {"training": {"steps": 1}})


def split_of(folder: Path, split: str):
    folder.mkdir(parents=True, exist_ok=True)
    return SplitWriter(folder, split)


def record(experiment: Experiment, decided: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write the record of the prepared data, as `lt25 prepare` does, with what the data decides of the model."""
    folder = experiment.processed_dir
    splits = {path.stem: {} for path in folder.glob("*.parquet")}
    facts = {"task": experiment.task, "fingerprint": "abc", "model": dict(decided), "splits": splits}
    write_record(folder / "stats.json", facts, sorted({*folder.iterdir()} - {folder / "stats.json"}))


@pytest.fixture
def classification(tmp_path):
    experiment, generator = experiment_of(tmp_path, "classification"), np.random.default_rng(0)
    for split, n in (("train", 9), ("validation", 5), ("test", 11)):
        writer = split_of(experiment.processed_dir, split)
        for i in range(n):
            inputs = generator.normal(size=(3 + i, 2)).astype(np.float32)
            writer.add({"id": f"{split}-{i}"}, inputs=inputs, labels=i % 3)
        writer.close()
    record(experiment)
    torch.manual_seed(0)
    config = HGRNConfig(**SIZES, input_size=2, num_labels=3, id2label={0: "a", 1: "b", 2: "c"})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "hf")
    return experiment


@pytest.fixture
def speech(tmp_path):
    experiment, generator = experiment_of(tmp_path, "speech_recognition"), np.random.default_rng(0)
    for split, n in (("train", 2), ("validation", 3), ("test", 7)):
        writer = split_of(experiment.processed_dir, split)
        for i in range(n):
            inputs = generator.normal(size=(9 + 5 * i, 4)).astype(np.float16)
            labels = np.array([2, 3, 1, 2][: 1 + i % 4], dtype=np.int32)
            writer.add({"id": f"{split}-{i}", "seconds": len(inputs) / 100}, inputs=inputs, labels=labels)
        writer.close()
    record(experiment)
    torch.manual_seed(0)
    config = HGRNConfig(**SIZES, input_size=4, vocab_size=4, pad_token_id=0, subsampling=2)
    AutoModelForCTC.from_config(config).save_pretrained(tmp_path / "hf")
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({"<pad>": 0, "|": 1, "a": 2, "b": 3}))
    tokenizer = Wav2Vec2CTCTokenizer(
        vocabulary, unk_token=None, bos_token=None, eos_token=None, pad_token="<pad>", word_delimiter_token="|"
    )
    tokenizer.save_pretrained(tmp_path / "hf")
    return experiment


@pytest.fixture
def text(tmp_path):
    experiment = experiment_of(tmp_path, "language_modeling", new_tokens=4, batch_size=2)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, **{letter: i + 1 for i, letter in enumerate(alphabet)}}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    for split in ("train", "validation", "test"):
        writer = split_of(experiment.processed_dir, split)
        for i, document in enumerate(TEXTS):
            writer.add({"id": f"{split}-{i}"}, inputs=np.array([*tokenizer.encode(document), 0], dtype=np.uint16))
        writer.close()
    record(experiment)
    torch.manual_seed(0)
    config = HGRNConfig(**SIZES, vocab_size=257, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "hf")
    return experiment


def run(experiment: Experiment, name: str = "evaluation") -> tuple[dict, pd.DataFrame]:
    out = experiment.root / name
    splits = {file.stem: {} for file in experiment.processed_dir.glob("*.parquet")}
    prepared = [file for file in experiment.processed_dir.iterdir() if file.name != "stats.json"]
    write_record(experiment.processed_dir / "stats.json", {"splits": splits, "model": {}}, prepared)
    metrics = evaluate(experiment, experiment.root / "hf", out)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    return metrics, pd.read_parquet(out / "predictions.parquet")


def test_classification(classification):
    write_record(classification.root / "hf" / "export.json", {"step": 40, "fingerprint": "abc-40"})
    metrics, table = run(classification)
    assert (metrics["step"], metrics["headline"], list(metrics["splits"])) == (40, "test", ["validation", "test"])
    assert list(metrics["splits"]["test"]["per_class"]) == ["a", "b", "c"]
    assert table["split"].tolist() == ["validation"] * 5 + ["test"] * 11
    assert set(metrics["splits"]["test"]["baselines"]) == {"most frequent class", "linear model"}
    assert "baselines" not in metrics["splits"]["validation"]
    assert table["reference"].tolist()[5:] == list("abcabcabcab")
    drawn = {path.stem for path in (classification.root / "evaluation").glob("*.svg")}
    assert drawn == {"confusion", "f1", "calibration", "read", "gates"}


def test_speech(speech):
    metrics, table = run(speech)
    assert table["reference"].tolist()[3:] == ["a", "ab", "ab", "ab a", "a", "ab", "ab"]
    test = metrics["splits"]["test"]
    assert test["wer"] == (test["substitutions"] + test["deletions"] + test["insertions"]) / test["reference_words"]
    assert test["reference_words"] == 8
    assert test["seconds_of_audio"] == pytest.approx(sum(9 + 5 * i for i in range(7)) / 100)


@pytest.mark.parametrize("task", ["classification", "speech"])
def test_padding_does_not_reach_the_predictions(task, request):
    experiment = request.getfixturevalue(task)
    _, together = run(experiment)
    experiment.evaluation["batch_size"] = 1
    _, alone = run(experiment, "alone")
    pd.testing.assert_frame_equal(together, alone, atol=1e-5)


def test_language(text, monkeypatch):
    monkeypatch.setitem(language.TOKENS_PER_STEP, "cpu", 32)
    metrics, table = run(text)
    test = metrics["splits"]["test"]
    assert test["bytes"] == sum(len(document) for document in TEXTS)
    assert test["tokens"] == test["bytes"] + 3
    assert [sample["seed"] for sample in test["samples"]] == [0, 1, 2]
    # Training's documents are the evaluated ones, so their frequencies are better than none.
    assert 0 < test["baselines"]["unigram"] < 8
    assert "samples" not in metrics["splits"]["validation"]

    model = AutoModelForCausalLM.from_pretrained(text.root / "hf").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(text.root / "hf")
    for document, bits in zip(TEXTS, table[table["split"] == "test"]["bits"], strict=True):
        tokens = torch.tensor([[0, *tokenizer.encode(document), 0]])
        with torch.no_grad():
            p = model(input_ids=tokens[:, :-1]).logits.double().log_softmax(-1)
        expected = -p[0].gather(1, tokens[0, 1:, None]).sum() / np.log(2)
        assert bits == pytest.approx(float(expected), rel=1e-5)


def test_drawn_texts_repeat_and_leave_the_generator_alone(text):
    model = AutoModelForCausalLM.from_pretrained(text.root / "hf").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(text.root / "hf")
    state = torch.get_rng_state()
    once, again = (language.samples(model, tokenizer, ["x = "], 12) for _ in range(2))
    assert once == again
    twice = language.samples(model, tokenizer, ["x = ", "x = "], 12)
    assert twice[0] == once[0]
    assert twice[0]["greedy"] == twice[1]["greedy"]
    assert twice[0]["sampled"] != twice[1]["sampled"]
    assert torch.equal(torch.get_rng_state(), state)
    assert once[0]["prompt"] == "x = "
    assert not once[0]["greedy"].startswith("x = ")


def test_what_is_missing_is_one_line(classification, tmp_path):
    with pytest.raises(UserError, match="lt25 export"):
        evaluate(classification, tmp_path / "nowhere", tmp_path / "out")
    classification.evaluation["splits"] = ["dev"]
    with pytest.raises(UserError, match="no such prepared split"):
        run(classification)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("task", "decided", "differ"),
    [
        ("text", {"vocab_size": 258}, "tokens"),
        ("text", {"vocab_size": 200}, None),  # an embedding with rows to spare
        ("speech", {"vocab_size": 4, "input_size": 80}, "inputs, 4 numbers a step there and 80 here,"),
        ("classification", {"num_labels": 3, "id2label": {"0": "a", "1": "c", "2": "b"}}, "classes"),
        ("classification", {"num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"}, "input_size": 2}, None),
    ],
)
def test_data_that_is_numbered_otherwise_than_the_model_is_refused(task, decided, differ, request):
    experiment = request.getfixturevalue(task)
    record(experiment, decided)
    if differ is None:
        evaluation._compare(experiment, experiment.root / "hf")
        return
    with pytest.raises(UserError) as error:
        evaluate(experiment, experiment.root / "hf", experiment.root / "out")
    said = (
        f"hf: its {differ} differ from those of {experiment.processed_dir}: run `lt25 train tiny && lt25 export tiny`"
    )
    assert str(error.value).endswith(said)


def test_tokens_of_another_order_are_refused(text):
    written = json.loads((text.root / "hf" / "tokenizer.json").read_text())
    known = written["model"]["vocab"]
    known["a"], known["b"] = known["b"], known["a"]
    (text.processed_dir / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="hf: its tokens differ from those of"):
        evaluate(text, text.root / "hf", text.root / "out")


def test_a_training_split_that_has_changed_gives_no_baseline(text):
    (shard,) = text.processed_dir.glob("train-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="lt25 prepare"):
        evaluate(text, text.root / "hf", text.root / "out")


def test_a_model_of_another_task_is_refused(text, tmp_path):
    with pytest.raises(UserError, match="not a model for classification"):
        load_model("classification", tmp_path / "hf", torch.device("cpu"))


def test_weights_that_are_missing_are_not_made_up(classification, tmp_path):
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    gone = next(name for name in weights if "mlp" in name)
    del weights[gone]
    save_file(weights, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"{gone}.*export it again"):
        run(classification)


def test_a_models_own_code_is_run_only_where_it_is_asked_for(classification):
    """Not on a terminal either, where transformers would ask."""
    folder, trace = classification.root / "hf", classification.root / "it-ran"
    config = json.loads((folder / "config.json").read_text())
    code = f"""
from pathlib import Path
Path({str(trace)!r}).touch()
from lt25.models.configuration import HGRNConfig
from lt25.models.classifier import HGRNForSequenceClassification
class OwnConfig(HGRNConfig):
    model_type = "own"
class OwnModel(HGRNForSequenceClassification):
    config_class = OwnConfig
"""
    (folder / "own.py").write_text(code)
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    device = torch.device("cpu")
    with pytest.raises(
        UserError, match=r"brings Python of its own, .* evaluation\.trust_remote_code to true$"
    ) as error:
        load_model("classification", folder, device)
    assert not trace.exists() and "\n" not in str(error.value)
    assert type(load_model("classification", folder, device, trust_remote_code=True)).__name__ == "OwnModel"
    assert trace.exists()

    # A family that lt25 knows is read by lt25, whatever the folder brings.
    trace.unlink()
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": names}))
    assert type(load_model("classification", folder, device)).__name__ == "HGRNForSequenceClassification"
    assert not trace.exists()
