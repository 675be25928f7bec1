"""An hour of sound through `lt25 transcribe --stream`, and through the ONNX graph: text, memory and speed on one core.

    python benchmarks/streaming.py [--minutes 60] [--model FOLDER]

`lt25 transcribe` hears a WAV file of 16 kHz as a stream and whole, each in a process of its own with one thread. Then
onnxruntime, with one thread, hears it in chunks of frames that are made of chunks of samples. Printed are, for each tenth of the
stream, its speed, in seconds of sound for a second of the processor, and the memory of the process; and whether all three wrote
the same words. Without `--model` it is the network of `spoken-digits`, made causal, with random weights, which write something
else for every tone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import soundfile
import torch

from lt25.checkpoints.onnx import CHUNK_FRAMES, write_graph
from lt25.data.audio_stream import LogMelStream
from lt25.data.features import LogMelFeatureExtractor
from lt25.data.speech_recognition import _write_tokenizer
from lt25.evaluation.recogniser import CHUNK_SECONDS, Recogniser
from lt25.evaluation.words import BestPath
from lt25.models import HGRNConfig, HGRNForCTC

RATE, BANDS = 16_000, 40


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument(
        "--model", type=Path, metavar="FOLDER", help="of an exported model that hears 16 kHz as it comes"
    )
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound.wav"
        write_sound(file, given.minutes)
        model = given.model or export(Path(folder) / "model")
        streamed = stream(model, file, 60 * given.minutes)
        heard = next(transcribe(model, file))
        whole = [word["text"] for word in heard["words"]]
        say("whole, with the start of the program", given.minutes, heard["processor"])
        graph = run_graph(model, Path(folder) / "model.onnx", file, given.minutes)
    same = {name: "the same" if words == whole else "others" for name, words in (("stream", streamed), ("ONNX", graph))}
    print(f"{len(whole):,} words; as a stream {same['stream']}, through ONNX {same['ONNX']}")
    if not streamed == graph == whole:
        sys.exit(1)


def write_sound(file: Path, minutes: float) -> None:
    """Write a tone with some noise, another one every fifth of a second, and at times a pause."""
    rng, step = np.random.default_rng(0), RATE // 5
    at = np.arange(step) / RATE
    with soundfile.SoundFile(file, "w", RATE, 1) as audio:
        for number in range(round(300 * minutes)):
            tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 3000) * at) * (number % 60 < 50)
            audio.write(tone + 0.01 * rng.standard_normal(step))


def export(folder: Path) -> Path:
    """Write a recogniser with random weights."""
    torch.manual_seed(3)
    sizes = json.loads(Path("config/models/hgrn_ctc_tiny.json").read_text())
    tokens = ["<pad>", "|", "<unk>", *"abcdefghijklmnopqrstuvwxyz'"]
    sizes |= {"bidirectional": False, "input_size": BANDS, "vocab_size": len(tokens), "pad_token_id": 0}
    HGRNForCTC(HGRNConfig(**{**sizes, "initializer_range": 0.2})).save_pretrained(folder)
    LogMelFeatureExtractor(BANDS, level="running", mean=[-5.0] * BANDS, std=[2.0] * BANDS).save_pretrained(folder)
    _write_tokenizer(folder, {token: number for number, token in enumerate(tokens)})
    return folder


def transcribe(model: Path, file: Path, *options: str):
    """Yield the objects that the command prints, with the process's memory (MiB) and time of the processor when it has."""
    command = [sys.executable, "-m", "lt25.cli", "transcribe", str(model), str(file), "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        measured = psutil.Process(process.pid)
        assert process.stdout
        for line in process.stdout:
            memory = measured.memory_info().rss / 2**20
            yield {**json.loads(line), "memory": memory, "processor": sum(measured.cpu_times()[:2])}
    if process.returncode:
        sys.exit(process.returncode)


def stream(model: Path, file: Path, seconds: float) -> list[str]:
    """Return the words of the stream; print how each tenth of it goes."""
    words, tenth, since, begun = [], 0, 0.0, None
    for heard in transcribe(model, file, "--stream"):
        if heard["final"]:
            words += [word["text"] for word in heard["words"]]
        if begun is None:
            since, begun = heard["read"], heard["processor"]
        if int(10 * heard["read"] / seconds) > tenth:
            tenth, speed = int(10 * heard["read"] / seconds), (heard["read"] - since) / (heard["processor"] - begun)
            print(f"{heard['read'] / 60:6.1f} min  {heard['memory']:7.1f} MiB  {speed:6.1f} x", flush=True)
            since, begun = heard["read"], heard["processor"]
    return words


def run_graph(model: Path, target: Path, file: Path, minutes: float) -> list[str]:
    """Return the words that onnxruntime hears; print its speed."""
    write_graph(model, target)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    state = {one.name: np.zeros(one.shape, np.float32) for one in session.get_inputs()[1:]}
    names = [one.name for one in session.get_outputs()]
    recogniser = Recogniser(model)
    extractor, subsampling = recogniser.extractor, recogniser.model.config.subsampling
    frames = LogMelStream(
        extractor.sampling_rate, torch.tensor(extractor.mean), torch.tensor(extractor.std), extractor.level
    )
    path, words = BestPath(recogniser.tokenizer, subsampling), []

    def hear(chunk: np.ndarray) -> None:
        filled = np.pad(chunk, ((0, CHUNK_FRAMES - len(chunk)), (0, 0)))
        found = dict(zip(names, session.run(names, {"features": filled[None], **state}), strict=True))
        log_probs = torch.from_numpy(found.pop("log_probs")[0])[: -(-len(chunk) // subsampling)]
        state.update({name.removeprefix("next_"): value for name, value in found.items()})
        words.extend(word.text for word in path.feed(log_probs) if word)

    waiting, process, started = np.zeros((0, extractor.feature_size), np.float32), psutil.Process(), time.process_time()
    before = process.memory_info().rss / 2**20
    with soundfile.SoundFile(file) as audio:
        while len(samples := audio.read(round(RATE * CHUNK_SECONDS), dtype="float32")):
            waiting = np.concatenate([waiting, frames.feed(torch.from_numpy(samples)).numpy()])
            while len(waiting) >= CHUNK_FRAMES:
                hear(waiting[:CHUNK_FRAMES])
                waiting = waiting[CHUNK_FRAMES:]
    waiting = np.concatenate([waiting, frames.close().numpy()])
    for start in range(0, len(waiting), CHUNK_FRAMES):
        hear(waiting[start : start + CHUNK_FRAMES])
    say("ONNX", minutes, time.process_time() - started)
    print(f"ONNX: {process.memory_info().rss / 2**20 - before:.1f} MiB more at the end than at the beginning")
    return words + [word.text for word in path.finish()]


def say(what: str, minutes: float, seconds: float) -> None:
    print(f"{what}: {60 * minutes / seconds:.1f} x", flush=True)


if __name__ == "__main__":
    main()
