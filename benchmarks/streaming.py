"""An hour of speech through `lt25 transcribe --stream`, and through the ONNX graph: text, memory and speed on one core.

    python benchmarks/streaming.py FOLDER [--minutes 60]

The model is an exported recogniser of 16 kHz that is causal, such as `spoken-digits` trained with
`model: {bidirectional: false}`.
`lt25 transcribe` hears digits by several voices of espeak-ng, one WAV file, as a stream and whole, each in a process of its own
with one thread. Then onnxruntime, with one thread, hears it in chunks of frames that are made of chunks of samples. Printed are,
for each tenth of the stream, its speed, in seconds of sound for a second of the processor, and the memory of the process; and
whether all three wrote the same words.
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
from lt25.data.audio import resample
from lt25.data.audio_stream import LogMelStream
from lt25.data.espeak import Espeak
from lt25.evaluation.recogniser import CHUNK_SECONDS, Recogniser
from lt25.evaluation.words import BestPath

RATE = 16_000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path, metavar="FOLDER")
    options.add_argument("--minutes", type=float, default=60)
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound.wav"
        write_sound(file, given.minutes)
        streamed = stream(given.model, file, 60 * given.minutes)
        heard = next(transcribe(given.model, file))
        whole = [word["text"] for word in heard["words"]]
        say("whole, with the start of the program", given.minutes, heard["processor"])
        graph = run_graph(given.model, Path(folder) / "model.onnx", file, given.minutes)
    same = {name: "the same" if words == whole else "others" for name, words in (("stream", streamed), ("ONNX", graph))}
    print(f"{len(whole):,} words; as a stream {same['stream']}, through ONNX {same['ONNX']}")
    if not streamed == graph == whole:
        sys.exit(1)


def write_sound(file: Path, minutes: float) -> None:
    """Write one to seven digits at a time, each time by another voice, with pauses and some noise."""
    rng, espeak = np.random.default_rng(0), Espeak()
    with soundfile.SoundFile(file, "w", RATE, 1) as audio:
        while audio.frames < 60 * minutes * RATE:
            voice = f"{rng.choice(('en-us', 'en', 'en-gb-scotland'))}+{rng.choice(('f1', 'f3', 'm1', 'm3', 'm7'))}"
            text = " ".join(rng.choice(DIGITS, rng.integers(1, 8)))
            spoken = espeak.say(text, voice, int(rng.integers(130, 200))) / 32768
            speech = resample(spoken, espeak.sample_rate, RATE)
            speech = np.pad(speech, (0, int(rng.uniform(0.2, 2) * RATE)))
            audio.write(speech + 0.001 * rng.standard_normal(len(speech)))


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
