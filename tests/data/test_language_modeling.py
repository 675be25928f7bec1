import json

import pytest

from lt25.data.language_modeling import END
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from tests.data import make

CODE = "def f{0}(x):\n    return x + {0}  # añade ☃\n\n\n"


def code(root, files=24, lines=20):
    for number in range(files):
        make.write(root / f"m{number}.py", "".join(CODE.format(number + line) for line in range(lines)))
    return make.dataset("language_modeling", {"path": str(root)})


def stats(folder):
    return json.loads((folder / "stats.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("language")
    return make.prepared(root, "language_modeling", code(root / "mine"), vocab_size=300)


def test_every_document_is_its_bytes_and_the_end(folder, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, facts = AutoTokenizer.from_pretrained(folder), stats(folder)
    assert len(tokenizer) == facts["model"]["vocab_size"] == 300
    end = tokenizer.convert_tokens_to_ids(END)
    assert facts["model"]["bos_token_id"] == facts["model"]["eos_token_id"] == tokenizer.eos_token_id == end
    for split in ("train", "validation", "test"):
        prepared = PreparedSplit(folder, split)
        table = prepared.table()
        for number, row in table.iterrows():
            tokens = prepared[number]["input"].tolist()
            index = int(row.path.removeprefix("m").removesuffix(".py"))
            text = "".join(CODE.format(index + line) for line in range(20))
            assert tokens.pop() == end and end not in tokens
            assert tokenizer.decode(tokens) == text and tokenizer(text).input_ids == tokens
            assert row.bytes == len(text.encode()) and row.tokens == len(tokens) + 1
        assert facts["splits"][split]["tokens"] == prepared.lengths.sum() == table.tokens.sum()
        assert facts["splits"][split]["bytes"] == table.bytes.sum()
        assert "label" not in prepared[0]


def test_the_tokenizer_learns_from_train_only(tmp_path):
    # Held out by path, so that a file stays on its side whatever stands in it.
    data = make.dataset("language_modeling", code(tmp_path / "mine").origin, {"text": "text", "group": "path"})
    before = make.prepared(tmp_path / "a", "language_modeling", data, vocab_size=300)
    for split in ("validation", "test"):
        for path in PreparedSplit(before, split).table().path:
            (tmp_path / "mine" / path).write_text("zqzqzqzq" * 2000)
    after = make.prepared(tmp_path / "b", "language_modeling", data, vocab_size=300)
    assert stats(after)["splits"]["test"]["tokens"] != stats(before)["splits"]["test"]["tokens"]
    assert (before / "tokenizer.json").read_bytes() == (after / "tokenizer.json").read_bytes()


def test_an_end_mark_within_a_text_is_text(tmp_path):
    data = code(tmp_path / "mine")
    make.write(tmp_path / "mine/mark.py", f"mark = '{END}'\n" * 3)
    folder = make.prepared(tmp_path, "language_modeling", data, vocab_size=300)
    end = stats(folder)["model"]["eos_token_id"]
    for split in ("train", "validation", "test"):
        prepared = PreparedSplit(folder, split)
        assert sum((prepared.shards["inputs"] == end).tolist()) == len(prepared)


@pytest.mark.parametrize(("cut", "count"), [("whole", 2), ("paragraphs", 6), ("lines", 12)])
def test_texts_are_cut_into_documents_that_add_up(tmp_path, cut, count):
    text = "a b\nc d\n\ne f\n \ng h\n"
    rows = [{"text": text, "kind": "x"}, {"text": text, "kind": "x"}, {"text": "", "kind": "x"}]
    for split in ("train", "test"):
        make.parquet(tmp_path / "mine" / f"{split}.parquet", rows)
    splits = {"train": "train", "validation": "test", "test": "test"}
    data = make.dataset("language_modeling", {"path": "mine"}, splits=splits)
    folder = make.prepared(tmp_path, "language_modeling", data, vocab_size=258, documents=cut)
    table = PreparedSplit(folder, "train").table()
    assert len(table) == count and table.bytes.sum() == 2 * len(text)
    assert table.id.is_unique


def test_token_ids_take_two_bytes_where_they_can(folder):
    import torch

    assert PreparedSplit(folder, "train").shards["inputs"].dtype == torch.uint16


def test_a_vocabulary_that_the_text_cannot_fill(tmp_path):
    with pytest.raises(
        UserError, match=r"too little text for a vocabulary of 5000: set prepare.vocab_size to \d+ or less"
    ):
        make.prepared(tmp_path, "language_modeling", code(tmp_path / "mine"), vocab_size=5000)


def test_a_text_column_of_numbers_is_named(tmp_path):
    make.parquet(tmp_path / "mine/all.parquet", [{"text": 1}, {"text": 2}])
    with pytest.raises(
        UserError, match=r"all.parquet, row .: expected a text, found int: is columns.text the right column"
    ):
        make.prepared(tmp_path, "language_modeling", make.dataset("language_modeling", {"path": "mine"}))


def test_a_batch_of_prompts_is_padded_in_front(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["def f1(x):", "def"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    lengths = [len(tokenizer(text).input_ids) for text in texts]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["input_ids"][1, 0] == stats(folder)["model"]["pad_token_id"]
