"""`lt25 export --onnx`: onnxruntime hears the same, chunk by chunk, as the model does of the whole recording."""

import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from lt25.checkpoints.onnx import CHUNK_FRAMES, export_onnx
from lt25.errors import UserError
from lt25.evaluation.recogniser import Recogniser
from lt25.evaluation.words import BestPath
from tests.evaluation.test_transcribe import exported, recording


def written(root, task="speech_recognition", **options):
    """Write a recogniser as an experiment exports it; return what `export_onnx` asks of an experiment."""
    exported(root / "results/mine/hf", **options)
    results = root / "results/mine"
    return SimpleNamespace(
        name="mine", task=task, root=root, results_dir=results, commands=lambda _: "lt25 export mine"
    )


def run(folder, features):
    """Return the logarithms [T, V] of probabilities that onnxruntime computes of frames [T, n_mels], a chunk at a time."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    state = {one.name: np.zeros(one.shape, np.float32) for one in session.get_inputs()[1:]}
    outputs, found = [one.name for one in session.get_outputs()], []
    for start in range(0, len(features), CHUNK_FRAMES):
        chunk = features[start : start + CHUNK_FRAMES]
        chunk = np.pad(chunk, ((0, CHUNK_FRAMES - len(chunk)), (0, 0)))
        given = dict(zip(outputs, session.run(outputs, {"features": chunk[None], **state}), strict=True))
        found.append(given.pop("log_probs")[0])
        state = {name.removeprefix("next_"): value for name, value in given.items()}
    return np.concatenate(found)


@pytest.mark.parametrize("options", [{"subsampling": 2}, {"subsampling": 4, "use_short_conv": False}])
def test_onnxruntime_hears_the_same_chunk_by_chunk(tmp_path, options):
    experiment = written(tmp_path, **options)
    export_onnx(experiment)
    recogniser = Recogniser(experiment.results_dir / "hf")
    features = recogniser.extractor(recording(7), return_tensors="pt").input_features
    with torch.inference_mode():
        whole = recogniser.model(input_features=features).logits[0].log_softmax(-1)
    found = torch.from_numpy(run(experiment.results_dir / "onnx", features[0].numpy()))[: len(whole)]
    assert (found - whole).abs().max() < 1e-3
    said = [
        [word.text for word in path.feed(log_probs) if word] + [word.text for word in path.finish()]
        for log_probs in (found, whole)
        for path in [BestPath(recogniser.tokenizer, recogniser.model.config.subsampling)]
    ]
    assert said[0] == said[1] != []


def test_the_graph_says_how_its_frames_are_made_and_what_it_writes(tmp_path):
    experiment = written(tmp_path)
    export_onnx(experiment)
    session = onnxruntime.InferenceSession(experiment.results_dir / "onnx/model.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["level"] == "running" and json.loads(properties["sample_rate"]) == 16000
    assert json.loads(properties["subsampling"]) == 2 and len(json.loads(properties["mean"])) == 40
    tokens = (experiment.results_dir / "onnx/tokens.txt").read_text().splitlines()
    assert tokens == ["<pad> 0", "| 1", "<unk> 2", "a 3", "b 4", "c 5"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bidirectional": True}, "with model.bidirectional: false"),
        ({"level": "utterance"}, "found prepare.level: utterance, expected running or recorded"),
        ({"task": "classification"}, "does classification, expected an experiment of speech_recognition"),
    ],
)
def test_a_model_that_hears_whole_recordings_has_no_graph(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        export_onnx(written(tmp_path, **options))
    assert not (tmp_path / "results/mine/onnx").exists()
