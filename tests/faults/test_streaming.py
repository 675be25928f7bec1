"""A small form of `tests.faults.streaming`; the large one is a command."""

import json

from lt25.data import chunks
from tests.data import make
from tests.faults import streaming


def test_training_on_text_that_is_killed_sees_what_an_undisturbed_one_sees(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunks, "SIZE", 3000)
    for split, count in (("train", 300), ("test", 3)):
        texts = (" ".join(str(number * word) for word in range(number % 60)) for number in range(count))
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        make.write(tmp_path / "corpus" / f"{split}.jsonl", lines)
    # The seed lets two processes train before the kill, and one goes on.
    assert streaming.trial(tmp_path, {"path": "corpus"}, "bytes", kills=1, steps=10, seed=0) == 10 * streaming.BATCH
