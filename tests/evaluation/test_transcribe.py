"""`lt25 transcribe`, whole and as a stream: a tiny model with random weights writes the same either way."""

import io
import itertools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

from lt25 import cli
from lt25.data.features import LogMelFeatureExtractor
from lt25.data.speech_recognition import _write_tokenizer
from lt25.evaluation.recogniser import Recogniser
from lt25.evaluation.words import BestPath
from lt25.models import HGRNConfig, HGRNForCTC
from tests.data import make

VOCABULARY = {token: number for number, token in enumerate(["<pad>", "|", "<unk>", *"abc"])}
HEARD = ["text", "start", "end", "confidence"]


def exported(folder, level="running", **options):
    torch.manual_seed(3)
    config = HGRNConfig(
        hidden_size=16, num_hidden_layers=2, intermediate_size=16, input_size=40, vocab_size=6, pad_token_id=0,
        initializer_range=0.5, **{"subsampling": 2, "use_short_conv": True, **options},
    )  # fmt: skip
    HGRNForCTC(config).save_pretrained(folder)
    LogMelFeatureExtractor(40, level=level, mean=[-5.0] * 40, std=[2.0] * 40).save_pretrained(folder)
    _write_tokenizer(folder, VOCABULARY)
    return folder


def recording(seconds, rate=16000, seed=0):
    """Bursts of noise, each with another spectrum, and a pause of two seconds in the middle if there is room."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * rate), np.float32)
    for start in range(0, len(samples), rate // 5):
        part = samples[start : start + rate // 5]
        part[:] = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 3000) * np.arange(len(part)) / rate)
        part += 0.01 * rng.standard_normal(len(part))
    if seconds > 5:
        samples[len(samples) // 2 - rate : len(samples) // 2 + rate] = 0
    return samples


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("causal"))


def whole(recogniser, samples, rate=16000):
    return [word for one in recogniser.hear(make.wav(samples, rate)) for word in one.words]


def assert_same(words, others):
    assert [word.text for word in words] == [word.text for word in others]
    assert sum(len(word.text) for word in words) > 5
    for kind in HEARD[1:]:
        assert [getattr(word, kind) for word in words] == pytest.approx(
            [getattr(word, kind) for word in others], abs=1e-3
        )


@pytest.mark.parametrize("level", ["running", "recorded"])
@pytest.mark.parametrize("subsampling", [1, 4])
@pytest.mark.parametrize("size", [1600, 333])
def test_a_stream_of_chunks_gives_the_words_of_the_whole(tmp_path, level, subsampling, size):
    recogniser = Recogniser(exported(tmp_path, level, subsampling=subsampling))
    # As a file of 16 bits holds them.
    samples = np.round(recording(2.5) * 32767).astype(np.float32) / 32768
    stream, heard = recogniser.stream(), []
    for start in range(0, len(samples), size):
        heard += stream.feed(samples[start : start + size])
    heard += stream.close()
    assert_same([word for one in heard if one.final for word in one.words], whole(recogniser, samples))
    # What has been said stays said.
    for before, after in itertools.pairwise(heard):
        if not before.final:
            assert after.words[: len(before.words)] == before.words and after.text.startswith(before.text)
            assert before.read <= after.read


@pytest.mark.parametrize("rate", [8000, 44100])
def test_files_of_another_rate_are_heard_alike(causal, tmp_path, rate):
    recogniser = Recogniser(causal)
    make.write(tmp_path / "a.wav", make.wav(recording(3, rate), rate))
    heard = list(recogniser.hear_stream(str(tmp_path / "a.wav")))
    assert_same([word for one in heard if one.final for word in one.words], whole(recogniser, recording(3, rate), rate))


def test_a_pause_ends_an_utterance():
    class Letters:
        pad_token_id, word_delimiter_token_id, all_special_ids = 0, 1, [0, 2]

        def get_vocab(self):
            return VOCABULARY

    def logits(symbols):
        return 20.0 * torch.nn.functional.one_hot(torch.tensor([VOCABULARY.get(s, 0) for s in symbols]), 6)

    path = BestPath(Letters(), 2)
    said = list(path.feed(logits("aa_ab|_" + "_" * 60 + "c" + "_" * 49)))
    assert [word and (word.text, round(word.start, 2), round(word.end, 2)) for word in said] == [("aab", 0, 0.1), None]
    assert path.unfinished == "c" and path.finish()[0].start == pytest.approx(1.34) and path.finish() == []
    # Without a space, too; and whatever the chunks.
    path, pieces = BestPath(Letters(), 2), logits("ab" + "_" * 49 + "__c|").split(1)
    said = [word for piece in pieces for word in path.feed(piece)]
    assert [word and word.text for word in said] == ["ab", None, "c"]
    assert all(0.99 < word.confidence <= 1 for word in said if word)
    # Specials write nothing.
    assert [word.text for word in BestPath(Letters(), 1).feed(logits(["a", "<unk>", "b", "|"]))] == ["ab"]


def test_transformers_pipeline_gives_the_same_words_and_their_times(tmp_path):
    model = HGRNForCTC.from_pretrained(exported(tmp_path))
    # Who was trained never writes the unknown symbol.
    model.ctc_head.bias.data[VOCABULARY["<unk>"]] = -100
    # This one writes two spaces with a blank between them.
    model.ctc_head.bias.data[:2] += 0.5
    model.save_pretrained(tmp_path)
    speech, recogniser = pipeline("automatic-speech-recognition", str(tmp_path)), Recogniser(tmp_path)
    recordings = [recording(2, seed=seed) for seed in (0, 1)]
    words = [whole(recogniser, samples) for samples in recordings]
    batch = speech([np.array(samples) for samples in recordings], batch_size=2, return_timestamps="word")
    for one, said in zip(batch, words, strict=True):
        assert one["text"] == " ".join(word.text for word in said) != ""
        times = [time for chunk in one["chunks"] for time in chunk["timestamp"]]
        assert times == pytest.approx([time for word in said for time in (word.start, word.end)], abs=0.021)


def test_memory_does_not_grow(causal):
    stream, samples, held = Recogniser(causal).stream(), recording(3), []
    for _ in range(30):
        for heard in stream.feed(samples):
            assert not heard.words or heard.words[-1].end - heard.words[0].start < 60
        held.append(len(stream._frames._kept) + sum(state.numel() for state in stream._cache.tensors().values()))
    assert max(held) == held[0]


def test_text_and_json_of_files_and_folders(causal, tmp_path, capsys):
    for number in range(2):
        make.write(tmp_path / f"mine/{number}.wav", make.wav(recording(2, seed=number)))
    first = str(tmp_path / "mine/0.wav")
    assert cli.main(["transcribe", str(causal), first]) == 0
    text = capsys.readouterr().out.strip()
    assert cli.main(["transcribe", str(causal), str(tmp_path / "mine")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{first}  {text}" and len(lines) == 2
    assert cli.main(["transcribe", str(causal), first, "--stream"]) == 0
    assert capsys.readouterr().out.split() == text.split()
    assert cli.main(["transcribe", str(causal), first, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == text and answer["file"] == first and list(answer["words"][0]) == HEARD
    assert cli.main(["transcribe", str(causal), first, "--json", "--stream"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert " ".join(one["text"] for one in answers if one["final"]) == text and len(answers) > 5


def test_subtitles(causal, tmp_path, capsys):
    make.write(tmp_path / "a.wav", make.wav(recording(4)))
    make.write(tmp_path / "b.wav", make.wav(recording(4)))
    for stream in ([], ["--stream"]):
        assert cli.main(["transcribe", str(causal), str(tmp_path / "a.wav"), "--srt", *stream]) == 0
        parts = capsys.readouterr().out.strip().split("\n\n")
        assert [part.splitlines()[0] for part in parts] == [str(n + 1) for n in range(len(parts))]
        assert all(" --> " in part.splitlines()[1] and "," in part.splitlines()[1] for part in parts)
    assert cli.main(["transcribe", str(causal), str(tmp_path / "a.wav"), "--vtt"]) == 0
    assert capsys.readouterr().out.startswith("WEBVTT\n\n00:00:0")
    assert cli.main(["transcribe", str(causal), str(tmp_path), "--vtt"]) == 2
    assert (
        capsys.readouterr().err
        == "lt25: error: lt25 transcribe: --vtt: found 2 files, expected one: call it for each\n"
    )


def test_standard_input_whole_and_through_a_pipe(causal, tmp_path, capsys, monkeypatch):
    data = make.wav(recording(2))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert cli.main(["transcribe", str(causal)]) == 0
    text = capsys.readouterr().out.strip()
    reading, writing = os.pipe()
    # As a recorder writes it, which does not know how long it will be.
    recorder = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))"],
        stdin=subprocess.PIPE, stdout=writing, text=True,
    )  # fmt: skip
    os.close(writing)
    unknown = data[:4] + b"\xff\xff\xff\x7f" + data[8:40] + b"\xdb\xff\xff\x7f" + data[44:]
    recorder.stdin.write(unknown.hex())
    recorder.stdin.close()
    with os.fdopen(reading) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert cli.main(["transcribe", str(causal), "-", "--stream"]) == 0
    recorder.wait()
    assert capsys.readouterr().out.split() == text.split() != []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"bidirectional": True}, "the model reads a recording from both ends (model.bidirectional)"),
        ({"level": "utterance"}, "the model measures a recording by all of it (prepare.level: utterance)"),
    ],
)
def test_what_hears_whole_recordings_only(tmp_path, capsys, options, why):
    folder = exported(tmp_path / "model", **options)
    make.write(tmp_path / "a.wav", make.wav(recording(2)))
    assert cli.main(["transcribe", str(folder), str(tmp_path / "a.wav")]) == 0
    assert capsys.readouterr().out.strip()
    assert cli.main(["transcribe", str(folder), str(tmp_path / "a.wav"), "--stream"]) == 2
    assert capsys.readouterr().err == f"lt25: error: lt25 transcribe: --stream: {why}: leave out --stream\n"


def test_the_command_itself_with_its_option_before_the_file(causal, tmp_path):
    """In a process of its own, where nothing but the command makes the model known to transformers."""
    make.write(tmp_path / "a.wav", make.wav(recording(1)))
    command = [sys.executable, "-m", "lt25.cli", "transcribe", str(causal), "--json", str(tmp_path / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"]


@pytest.mark.parametrize("options", [[], ["--stream"]])
def test_an_empty_file_is_called_so_in_both_ways(causal, tmp_path, capsys, options):
    path = make.write(tmp_path / "a.wav", b"")
    assert cli.main(["transcribe", str(causal), str(path), *options]) == 2
    assert capsys.readouterr().err == f"lt25: error: {path}: the file is empty\n"


def test_a_pipe_of_another_kind_than_wav_is_one_line(causal, capsys, monkeypatch):
    reading, writing = os.pipe()
    flac = io.BytesIO()
    soundfile.write(flac, recording(0.5), 16000, format="FLAC")
    os.write(writing, flac.getvalue())
    os.close(writing)
    with os.fdopen(reading) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert cli.main(["transcribe", str(causal), "--stream"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("lt25: error: -: no readable audio (") and "a pipe has to be WAV" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros(100, np.int16), "expected samples of one channel, float32 [n] in -1..1, found int16 [100]"),
        (np.zeros((100, 2), np.float32), "found float32 [100, 2]"),
        (np.full(100, np.nan, np.float32), "samples that are not finite"),
    ],
)
def test_a_stream_refuses_other_samples_and_goes_on(causal, samples, said):
    recogniser, audio = Recogniser(causal), recording(2)
    stream = recogniser.stream()
    with pytest.raises(ValueError, match=re.escape(said)):
        list(stream.feed(samples))
    heard = [*stream.feed(audio.astype(np.float64)), *stream.close()]
    assert_same([word for one in heard if one.final for word in one.words], whole(recogniser, audio))
    with pytest.raises(ValueError, match="the stream is closed"):
        list(stream.feed(audio))


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_what_cannot_be_read_comes_last_in_a_line_each(causal, tmp_path, capsys, stream):
    make.write(tmp_path / "a.wav", b"no audio")
    make.write(tmp_path / "b.wav", make.empty_wav())
    make.write(tmp_path / "c.wav", make.wav(recording(1)))
    make.write(tmp_path / "notes.txt", b"of what is said")
    assert cli.main(["transcribe", str(causal), str(tmp_path), *stream]) == 2
    captured = capsys.readouterr()
    assert f"{tmp_path}: 1 file of another kind: not read" in captured.err and "notes.txt" not in captured.err
    assert "c.wav  " in captured.out and "Traceback" not in captured.err
    assert "a.wav: no readable audio" in captured.err and "b.wav: the audio holds no samples" in captured.err
