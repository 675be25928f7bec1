"""Synthetic recall: that what is asked for can be known, and how it is prepared."""

import json

import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from lt25.data import recall as data
from lt25.data.builders import recall
from lt25.data.prepared import PreparedSplit
from tests.data import make


@pytest.fixture(params=recall.KINDS)
def kind(request, monkeypatch):
    monkeypatch.setattr(recall, "EXAMPLES", {"train": 40, "validation": 16, "test": 16})
    return request.param


def answer(kind: str, symbols: list[str], place: int) -> str:
    """What must stand at a place, by what stands before it."""
    before = symbols[:place]
    if kind == "copying":
        return before[place - before.index("|") - 1]
    return before[before.index(before[-1]) + 1]


def test_what_is_asked_for_follows_from_what_was_read(kind, tmp_path):
    assert recall.build(tmp_path, {"kind": kind}) == f"{kind} 1"
    seen = []
    for split in recall.EXAMPLES:
        rows = pq.read_table(tmp_path / f"{split}.parquet").to_pylist()
        for row in rows:
            symbols = row["text"].split()
            assert row["asked"]
            for place in row["asked"]:
                assert symbols[place] == answer(kind, symbols, place)
        difficulties = recall.KINDS[kind][1]
        assert {row["difficulty"] for row in rows} == set(difficulties[:4] if split == "train" else difficulties)
        seen += [row["text"] for row in rows]
    assert len(set(seen)) == len(seen)
    (again := tmp_path / "again").mkdir()
    recall.build(again, {"kind": kind})
    assert (again / "test.parquet").read_bytes() == (tmp_path / "test.parquet").read_bytes()


def test_a_token_is_a_symbol_and_only_what_is_asked_for_has_a_label(kind, tmp_path):
    splits = {split: split for split in recall.EXAMPLES}
    folder = make.prepared(
        tmp_path, "recall", make.dataset("recall", {"builder": "recall", "kind": kind}, splits=splits)
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    split = PreparedSplit(folder, "test")
    rows = pq.read_table(tmp_path / "data" / "raw" / "tiny" / "test.parquet").to_pylist()
    items = [split[i] for i in range(len(split))]
    for row, item in zip(rows, items, strict=True):
        symbols = row["text"].split()
        assert tokenizer(row["text"]).input_ids == item["input"].tolist()
        assert tokenizer.convert_ids_to_tokens(item["input"].tolist()) == symbols
        labels = {n + 1: int(label) for n, label in enumerate(item["label"]) if label != -100}
        assert labels == {place: tokenizer.convert_tokens_to_ids(symbols[place]) for place in row["asked"]}
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["model"]["vocab_size"] == len(tokenizer)
    assert stats["splits"]["test"]["asked"] == sum(len(row["asked"]) for row in rows)
    batch = data.collate(items[:3])
    assert batch["input_ids"].shape == batch["labels"].shape
    assert int((batch["labels"] != -100).sum()) == sum(len(row["asked"]) for row in rows[:3])


def test_a_symbol_that_training_lacks_is_a_fault(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = [json.dumps({"text": f"a {n} a {n}", "asked": [3], "difficulty": 1}) for n in range(60)]
    wrong = [{"text": "a z a z", "asked": [3], "difficulty": 1}, {"text": "a 1", "asked": [7], "difficulty": 1}]
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "test.jsonl").write_text("\n".join([*lines, *map(json.dumps, wrong)]))
    splits = {"train": "train", "validation": "train", "test": "test"}
    prepared = make.prepared(tmp_path, "recall", make.dataset("recall", {"path": str(folder)}, splits=splits))
    stats = json.loads((prepared / "stats.json").read_text())
    assert stats["splits"]["test"]["excluded"] == {"an unusable label": 2}
    assert any("found z" in line for line in stats["excluded"])
