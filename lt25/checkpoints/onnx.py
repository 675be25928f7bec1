"""``lt25 export --onnx``: a streaming recogniser as an ONNX graph of one chunk, whose state goes in and comes out.

``onnx/model.onnx`` takes ``features`` float32 [1, `CHUNK_FRAMES`, n_mels], log-mel frames as preparation makes them, and each
part of the state, which is zeros before the first chunk. It returns ``log_probs`` float32 [1, CHUNK_FRAMES / subsampling, V],
and each part of the new state under its name with ``next_`` before it. What the last chunk lacks is filled with zeros. The
graph's properties say how the frames are made: ``sample_rate``, ``level``, ``mean`` and ``std``. ``onnx/tokens.txt`` has a
symbol of the vocabulary and its number a line, the blank first.
"""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

from lt25.errors import UserError
from lt25.experiment import Experiment
from lt25.files import read_json, whole_folder, write_text
from lt25.importing import without_compiler, without_garbage
from lt25.progress import say

CHUNK_FRAMES = 32
"""Of 10 ms. Every subsampling divides it."""


def export_onnx(experiment: Experiment) -> None:
    """Write the graph of an exported model to ``results/<experiment>/onnx/``.

    Args:
        experiment: whose model stands in ``hf/``.

    Raises:
        UserError: if the model is none that hears audio as it comes, or onnx is not installed.
    """
    what = f"{experiment.name}: lt25 export --onnx"
    if experiment.task != "speech_recognition":
        raise UserError(f"{what}: does {experiment.task}, expected an experiment of speech_recognition")
    folder = experiment.results_dir / "hf"
    config = read_json(folder / "config.json", experiment.commands("export"))
    extractor = read_json(folder / "preprocessor_config.json", experiment.commands("export"))
    if config["model_type"] != "lt25_hgrn" or config.get("bidirectional") or config.get("position_embeddings"):
        raise UserError(
            f"{what}: the graph hears audio as it comes, which takes a model of model_type lt25_hgrn with "
            f"model.bidirectional: false and without model.position_embeddings"
        )
    if extractor["level"] not in ("running", "recorded"):
        raise UserError(f"{what}: found prepare.level: {extractor['level']}, expected running or recorded")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{what}: {error.name} is not installed: run `pip install onnx onnxscript`") from None
    target = experiment.results_dir / "onnx"
    with whole_folder(target) as partial:
        write_graph(folder, partial / "model.onnx")
        vocabulary = read_json(folder / "vocab.json", experiment.commands("export"))
        numbered = sorted(vocabulary.items(), key=lambda entry: entry[1])
        write_text(partial / "tokens.txt", "".join(f"{symbol} {number}\n" for symbol, number in numbered))
    say(f"{experiment.name}: the graph is written to {target.relative_to(experiment.root)}")


def write_graph(folder: Path, target: Path) -> None:
    """Write the graph of the recogniser in a folder that `lt25 export` has made."""
    with without_garbage(), without_compiler():
        import torch

        from lt25.models.auto import load_model
        from lt25.models.cache import HGRNCache

    import onnx

    model: Any = load_model("speech_recognition", folder, torch.device("cpu"))
    model = model.float().eval()
    config, extractor = model.config, read_json(folder / "preprocessor_config.json", "export the model again")
    features = torch.zeros(1, CHUNK_FRAMES, config.input_size)
    before = HGRNCache(config)
    model.stream(features, before)
    # A cache that has read chunks of whole frames of the model keeps as much as it begins with.
    states = {name.replace(" ", "_"): torch.zeros_like(state) for name, state in before.tensors().items()}

    class Chunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: torch.Tensor, *kept: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cache = HGRNCache(config)
            cache.restore(dict(zip(before.tensors(), kept, strict=True)))
            logits = type(model).stream.__wrapped__(model, features, cache)
            return logits.log_softmax(-1), *cache.tensors().values()

    # It warns of torchvision, which is not needed, and of parts of torch that it uses itself.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(action="ignore", category=FutureWarning):
        program = torch.export.export(Chunk().eval(), (features, *states.values()), strict=False)
        torch.onnx.export(
            program,
            f=str(target),
            input_names=["features", *states],
            output_names=["log_probs", *(f"next_{name}" for name in states)],
            external_data=False,
            verbose=False,
        )
    graph = onnx.load(target)
    properties = {name: extractor[name] for name in ("level", "mean", "std")}
    properties |= {"sample_rate": extractor["sampling_rate"], "subsampling": config.subsampling}
    for name, value in properties.items():
        graph.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    onnx.save(graph, target)
