"""A preparation of speech that is stopped goes on where it was, and writes the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from filelock import FileLock

from lt25.data import kept, shards, speech_recognition
from tests.data import make

OPTIONS = {"n_mels": 40, "sample_rate": 8000}
MEASURED, UTTERANCES, SIZE = 20, 80, 1 << 15
SPEAKERS = {"validation": 1, "test": 2}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Recordings of three speakers, some of which cannot be used; parts of a handful of them."""
    monkeypatch.setattr(kept, "SIZE", SIZE)
    monkeypatch.setattr(speech_recognition, "MEASURED", MEASURED)
    rng, rows = np.random.default_rng(0), []
    for number in range(UTTERANCES):
        samples = 0.1 * rng.standard_normal(round(8000 * rng.uniform(0.3, 0.6)))
        make.write(tmp_path / f"mine/{number:02}.wav", make.wav(samples, 8000))
        rows.append(f"{number:02}.wav,{'five %' if number == 30 else 'one two'},{number % 3}")
    make.write(tmp_path / "mine/40.wav", b"no audio")
    rows.insert(50, "nowhere.wav,one,1")
    make.write(tmp_path / "mine/all.csv", "\n".join(["audio,text,speaker", *rows]))
    columns = {"audio": "audio", "text": "text", "group": "speaker"}
    splits = {"train": "all", **{name: {"from": "train", "groups": [n]} for name, n in SPEAKERS.items()}}
    return make.dataset("speech_recognition", {"path": str(tmp_path / "mine")}, columns, splits)


@pytest.fixture
def decoded(monkeypatch):
    """The calls that decode a file; ``stop_at`` of them ends it."""
    calls, decode = Calls(), speech_recognition.decode_audio

    def counted(*arguments):
        calls.append(arguments[0])
        if len(calls) == calls.stop_at:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(speech_recognition, "decode_audio", counted)
    return calls


class Calls(list):
    stop_at = 0


def prepare(root: Path, data, **options) -> Path:
    return make.prepared(root, "speech_recognition", data, **{**OPTIONS, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def parts_below(root: Path) -> Path:
    (parts,) = (root / "data/processed/tiny").glob(".*.parts-*")
    return parts


def kept_in(parts: Path) -> int:
    found = kept.Parts(parts)
    return len(list(found.kept()))


@pytest.mark.parametrize("store", ["features", "audio"])
def test_what_is_done_is_not_done_again_and_the_files_are_the_same(tmp_path, data, decoded, capsys, store):
    undisturbed = contents(prepare(tmp_path / "undisturbed", data, store=store))
    decoded.clear()
    decoded.stop_at = MEASURED + 55
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, data, store=store)
    parts = parts_below(tmp_path)
    before = kept_in(parts)
    assert 20 < before < 60 and before == kept_in(parts)
    # What came to the disk in part, or was altered there, is made again, and what follows it too.
    last = max(parts.glob("*.bin"), key=lambda path: int(path.stem))
    last.write_bytes(last.read_bytes()[:-1] + b"!")
    whole = kept_in(parts)
    assert 0 < whole < before
    decoded.clear()
    capsys.readouterr()
    folder = prepare(tmp_path, data, store=store)
    assert contents(folder) == undisturbed
    # One is outside the alphabet, and so is never decoded.
    assert len(decoded) == UTTERANCES - whole - (whole <= 30)
    assert f"{whole} utterances were prepared before: going on after them" in capsys.readouterr().err
    assert not list(folder.parent.glob(".*"))


def test_stopped_while_all_is_joined_nothing_is_decoded_again(tmp_path, data, decoded, monkeypatch):
    undisturbed = contents(prepare(tmp_path / "undisturbed", data))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shards, "_write_safetensors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare(tmp_path, data)
    decoded.clear()
    assert contents(prepare(tmp_path, data)) == undisturbed
    assert not decoded


def test_other_files_or_settings_start_anew(tmp_path, data, decoded):
    decoded.stop_at = MEASURED + 55
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, data)
    former, decoded.stop_at = parts_below(tmp_path), 0
    decoded.clear()
    prepare(tmp_path, data, n_mels=30)
    assert len(decoded) == MEASURED + UTTERANCES - 1
    make.write(tmp_path / "mine/77.wav", (tmp_path / "mine/76.wav").read_bytes())
    decoded.clear()
    prepare(tmp_path, data)
    assert len(decoded) == MEASURED + UTTERANCES - 1 and not former.exists()


def test_what_another_process_is_at_is_left_to_it(tmp_path, data, decoded):
    undisturbed = contents(prepare(tmp_path / "undisturbed", data))
    decoded.clear()
    decoded.stop_at = MEASURED + 55
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, data)
    parts = parts_below(tmp_path)
    there = sorted(parts.iterdir())
    with FileLock(parts / "lock"):
        folder = prepare(tmp_path, data)
        assert contents(folder) == undisturbed and set(there) <= set(parts.iterdir())
        assert list(folder.parent.glob(".*")) == [parts]


def test_what_takes_long_is_a_part_however_small(tmp_path, data, decoded, monkeypatch):
    undisturbed = contents(prepare(tmp_path / "undisturbed", data))
    monkeypatch.setattr(kept, "SIZE", 1 << 40)
    monkeypatch.setattr(kept, "SECONDS", 0)
    decoded.clear()
    decoded.stop_at = MEASURED + 55
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, data)
    assert kept_in(parts_below(tmp_path)) > 20
    assert contents(prepare(tmp_path, data)) == undisturbed


def test_a_part_that_others_went_before_is_not_taken(tmp_path, monkeypatch):
    example = cast(Any, None)
    said = [kept.Utterance(np.full(3, n, np.int16), 1, np.zeros(1, np.int32), str(n), b"") for n in range(6)]
    monkeypatch.setattr(kept, "SECONDS", 0)
    assert (
        len(list(kept.Parts(tmp_path).keep((example, one) for one in said))) == len(list(tmp_path.glob("*.bin"))) == 6
    )
    # The third part is lost, and made again with all utterances that follow it.
    (tmp_path / "2.json").unlink()
    monkeypatch.setattr(kept, "SECONDS", 60)
    parts = kept.Parts(tmp_path)
    known = list(parts.kept())
    assert len(list(parts.keep((example, one) for one in [*known, *said[len(known) :]]))) == 6
    assert [one.text for one in kept.Parts(tmp_path).kept() if isinstance(one, kept.Utterance)] == list("012345")


KILLED = """
import os, signal, sys
from pathlib import Path
from lt25.data import kept, speech_recognition
from lt25.experiment import Dataset
from tests.data import test_kept

save, saved = kept.Parts._save, []
kept.SIZE, speech_recognition.MEASURED = test_kept.SIZE, test_kept.MEASURED

def killed(*arguments):
    saved.append(save(*arguments))
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return saved[-1]

kept.Parts._save = killed
test_kept.prepare(Path(sys.argv[1]), eval(sys.argv[2]))
"""


def test_a_process_that_is_killed(tmp_path, data, decoded):
    undisturbed = contents(prepare(tmp_path / "undisturbed", data))
    command = [sys.executable, "-c", KILLED, str(tmp_path), repr(data)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, check=False)
    assert ended.returncode == -signal.SIGKILL
    there = kept_in(parts_below(tmp_path))
    decoded.clear()
    folder = prepare(tmp_path, data)
    assert contents(folder) == undisturbed
    assert there > 3 and len(decoded) == UTTERANCES - there - (there <= 30)
    assert not list(folder.parent.glob(".*"))
