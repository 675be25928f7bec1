"""Data folders of Kaldi's and lists of Lhotse's."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lt25.data.acquire import acquire
from lt25.data.prepared import PreparedSplit
from lt25.data.read import unread
from lt25.errors import UserError
from tests.data import make
from tests.data.test_read import found

WHOLE = {"audio": "audio", "text": "text", "group": "speaker", "id": "id"}
SEGMENTS = {**WHOLE, "start": "start", "end": "end"}


def kaldi(root: Path, **files: str) -> Path:
    """Write a data folder with two recordings of a second, and files beside ``wav.scp``."""
    for number in range(2):
        make.write(root / f"audio/{number}.wav", make.audio(np.random.default_rng(number), 1, container="WAV"))
    given = {
        "wav.scp": "a ../audio/0.wav\nb ../audio/1.wav\n",
        "text": "a one two\nb  three\n",
        "utt2spk": "a ann\nb bob\n",
    }
    for name, content in {
        **given,
        **{name.replace("wav_scp", "wav.scp"): text for name, text in files.items()},
    }.items():
        make.write(root / "train" / name, content)
    return root


def roles(root: Path, columns: dict[str, str]) -> tuple[list[tuple], list[tuple[str, str]]]:
    """Return id, speaker, text and what else is asked for of the examples of a folder, and its faults."""
    examples, faults = found(root, "speech_recognition", columns)
    rest = [role for role in columns if role not in ("audio", *WHOLE)]
    return [tuple(one.roles[role] for role in ("id", "group", "text", *rest)) for one in examples], faults


def test_a_folder_of_kaldis_is_read_as_it_is(tmp_path):
    kaldi(tmp_path)
    assert roles(tmp_path, WHOLE) == ([("a", "ann", "one two"), ("b", "bob", "three")], [])
    examples, _ = found(tmp_path, "speech_recognition", WHOLE)
    assert [one.path for one in examples] == ["audio/0.wav", "audio/1.wav"]
    assert examples[1].roles["audio"]["bytes"] == (tmp_path / "audio/1.wav").read_bytes()


def test_a_manifest_of_nemos_is_read_as_it_is(tmp_path):
    kaldi(tmp_path)
    line = {"audio_filepath": str(tmp_path / "audio/1.wav"), "text": "three", "duration": 1.0}
    make.write(tmp_path / "train_manifest.json", json.dumps(line) + "\n" + json.dumps([line]) + "\n")
    examples, faults = found(tmp_path, "speech_recognition", {"audio": "audio_filepath", "text": "text"})
    assert [(one.path, one.roles["text"]) for one in examples] == [("audio/1.wav", "three")]
    assert [reason for reason, _ in faults] == ["a row that cannot be read"]
    assert unread(["train_manifest.json", "a.wav"], ["audio_filepath", "text"]) == []
    assert unread(["train_manifest.json", "a.wav"], ["audio"]) == [
        "1 file .json: not read: write an object a line, as .jsonl"
    ]


def test_a_table_goes_before_a_list(tmp_path):
    kaldi(tmp_path)
    make.write(tmp_path / "train/all.csv", "id,audio,text,speaker\nc,../audio/1.wav,of a table,me\n")
    assert roles(tmp_path, WHOLE) == ([("c", "me", "of a table")], [])


def test_segments_of_kaldis_recordings_are_utterances(tmp_path):
    kaldi(
        tmp_path,
        segments="a-1 a 0.1 0.4\na-2 a 0.5 0.9\nc-1 c 0 1\nb-1 b 0\n",
        text="a-1 one\na-2 two\n",
        utt2spk="a-1 x\na-2 y\n",
    )
    assert roles(tmp_path, SEGMENTS) == (
        [("a-1", "x", "one", "0.1", "0.4"), ("a-2", "y", "two", "0.5", "0.9")],
        [
            ("a missing file", "train/segments, line 3: train/wav.scp has no recording 'c'"),
            (
                "a row that cannot be read",
                "train/segments, line 4: expected an utterance, a recording, its start and its end, found 3 fields",
            ),
        ],
    )


def test_kaldis_folders_become_prepared_data_split_by_their_names(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in {"train_clean": 8, "dev": 3, "test": 2}.items():
        names = [f"{split}-{number}" for number in range(count)]
        for name in names:
            make.write(tmp_path / f"mine/wavs/{name}.flac", make.audio(rng, 0.5))
        folder = tmp_path / "mine" / split
        make.write(folder / "wav.scp", "".join(f"{name} {tmp_path}/mine/wavs/{name}.flac\n" for name in names))
        make.write(folder / "text", "".join(f"{name} HELLO THERE\n" for name in names))
        make.write(folder / "feats.scp", "what is not read\n")
    splits = {"train": "train_clean", "validation": "dev", "test": "test"}
    data = make.dataset("speech_recognition", {"path": "mine"}, {"audio": "audio", "text": "text", "id": "id"}, splits)
    folder = make.prepared(tmp_path, "speech_recognition", data)
    tables = {split: PreparedSplit(folder, split).table() for split in splits}
    assert {split: len(table) for split, table in tables.items()} == {"train": 8, "validation": 3, "test": 2}
    assert tables["test"].id.tolist() == ["test-0", "test-1"] and set(tables["train"].text) == {"hello there"}


def test_what_is_read_of_kaldis_folder_is_hashed_and_not_said_to_be_left_out(tmp_path, capsys):
    kaldi(tmp_path / "mine")
    make.write(tmp_path / "mine/train/spk2utt", "ann a\nbob b\n")
    data = make.dataset("speech_recognition", {"path": "mine"}, WHOLE)
    acquire(data, make.experiment(tmp_path, "speech_recognition", data).raw_dir)
    assert capsys.readouterr().err.count("left out") == 1
    names = ["train/wav.scp", "train/text", "a.jsonl.gz", "x/text"]
    assert unread(names, ["audio"]) == ["1 file without suffix: not read"]
    assert unread(names, ["text"]) == [
        "2 files without suffix: not read",
        "1 file .scp: not read",
    ]


@pytest.mark.parametrize(
    ("files", "columns", "message"),
    [
        (
            {"wav_scp": "a touch ran |\n"},
            WHOLE,
            r"wav.scp: a is a command, which is not run \('touch ran \|'\): write what",
        ),
        ({"wav_scp": "a | touch ran\n"}, WHOLE, r"wav.scp: a is a command, which is not run"),
        ({"text": "a one\na two\n"}, WHOLE, r"text, line 2: a stands there for the second time: remove one"),
        ({}, SEGMENTS, r"columns.start: .*wav.scp: no column start: it has id, audio, text, speaker; mend"),
    ],
)
def test_a_folder_of_kaldis_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, files, columns, message):
    monkeypatch.chdir(tmp_path)
    kaldi(tmp_path / "mine", **files)
    with pytest.raises(UserError, match=message) as caught:
        found(tmp_path / "mine", "speech_recognition", columns)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("files", "reason", "line"),
    [
        ({"text": "a one two\n"}, "a missing value", "line 2: train/text has no line of the utterance 'b'"),
        ({"text": "a one two\nb caf\udce9\n"}, "text in another encoding", "line 2: column text: not utf-8"),
        (
            {"wav_scp": "a ../audio/0.wav\nb foo.ark:17\n"},
            "a missing file",
            "line 2: column audio: no such file: 'foo.ark:17'",
        ),
        ({"wav_scp": "a ../audio/0.wav\nb\n"}, "a missing value", "line 2: column audio has no value"),
        ({"wav_scp": "a ../audio/0.wav\nb /etc/passwd\n"}, "a file name that leads outside", "line 2: column audio"),
    ],
)
def test_an_utterance_of_kaldis_that_cannot_be_used_is_named(tmp_path, files, reason, line):
    kaldi(tmp_path, **dict.fromkeys(files, ""))
    for name, content in files.items():
        path = tmp_path / "train" / name.replace("wav_scp", "wav.scp")
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    kept, faults = roles(tmp_path, WHOLE)
    assert kept == [("a", "ann", "one two")] and [fault[0] for fault in faults] == [reason]
    assert faults[0][1].startswith(f"train/wav.scp, {line}")


def test_lists_of_lhotses_need_lhotse(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    make.write(tmp_path / "cuts.jsonl.gz", b"")
    with pytest.raises(UserError, match=r"^cuts.jsonl.gz: .* is not installed: run `pip install lhotse`; or unpack it"):
        found(tmp_path, "speech_recognition", SEGMENTS)
    # For another task it is compressed JSON lines.
    make.write(tmp_path / "cuts.jsonl.gz", gzip.compress(b'{"text": "a"}\n'))
    assert [one.roles["text"] for one in found(tmp_path, "language_modeling")[0]] == ["a"]


@pytest.fixture
def lists(tmp_path):
    """Recordings of a second and lists of them by lhotse: two utterances each."""
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed, whose lists these are")
    recordings = []
    for number in range(2):
        path = make.write(
            tmp_path / f"audio/{number}.wav", make.audio(np.random.default_rng(number), 1, container="WAV")
        )
        recordings.append(lhotse.Recording.from_file(path, recording_id=f"r{number}"))
    recordings = lhotse.RecordingSet.from_recordings(recordings)
    said = (("one", 0.1, 0.3), ("two", 0.5, 0.4))
    supervisions = lhotse.SupervisionSet.from_segments(
        lhotse.SupervisionSegment(f"{one.id}-{text}", one.id, start, duration, text=text, speaker=f"of {one.id}")
        for one in recordings
        for text, start, duration in said
    )
    return recordings, supervisions, lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions)


SAID = (("one", 0.1, 0.4), ("two", 0.5, 0.9))
EVERY = [(f"r{n}-{text}", f"of r{n}", text, start, end) for n in range(2) for text, start, end in SAID]


def test_recordings_and_supervisions_of_lhotses_are_read_together(tmp_path, lists):
    lists[0].to_file(tmp_path / "mine_recordings_train.jsonl.gz")
    with pytest.raises(
        UserError, match=r"needs one of supervisions beside it: mine_supervisions_train.jsonl.gz is not there"
    ):
        roles(tmp_path, SEGMENTS)
    lists[1].to_file(tmp_path / "mine_supervisions_train.jsonl.gz")
    assert roles(tmp_path, SEGMENTS) == (EVERY, [])


@pytest.mark.parametrize("trimmed", [False, True])
def test_cuts_of_lhotses_are_read_in_the_time_of_their_recordings(tmp_path, lists, trimmed):
    (lists[2].trim_to_supervisions() if trimmed else lists[2]).to_file(tmp_path / "cuts.jsonl.gz")
    assert roles(tmp_path, SEGMENTS) == (EVERY, [])


def test_what_lhotse_would_change_as_it_is_read_is_named(tmp_path, lists):
    (lists[2] + lists[2].perturb_speed(1.1) + lists[2].pad(3)).to_eager().to_file(tmp_path / "cuts.jsonl.gz")
    kept, faults = roles(tmp_path, SEGMENTS)
    assert kept == EVERY and len(faults) == 8
    assert faults[0][1].startswith("cuts.jsonl.gz: r0-one_sp1.1: its recording is changed as it is read")
    assert faults[4][1].startswith("cuts.jsonl.gz: r0-one: a cut that is mixed or padded")


def test_commands_and_nonsense_among_lhotses_lists_are_one_line(tmp_path, lists, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cut = next(iter(lists[2])).to_dict()
    cut["recording"]["sources"] = [{"type": "command", "channels": [0], "source": "touch ran"}]
    make.write(tmp_path / "mine/cuts.jsonl.gz", gzip.compress(json.dumps(cut).encode()))
    with pytest.raises(UserError, match=r"^cuts.jsonl.gz: r0-one: its recording is a command, which is not run"):
        roles(tmp_path / "mine", SEGMENTS)
    assert not (tmp_path / "ran").exists()
    for content in (b"no gzip", gzip.compress(b'{"text": "a"}\n'), gzip.compress(b"[3")):
        make.write(tmp_path / "mine/cuts.jsonl.gz", content)
        with pytest.raises(UserError) as caught:
            roles(tmp_path / "mine", SEGMENTS)
        assert "\n" not in str(caught.value)
