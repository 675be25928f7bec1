import json

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from lt25.check import check_experiment
from lt25.data import chunks, hub, language_modeling, tokenizer
from lt25.data.acquire import acquire
from lt25.data.order import Reading, Share
from lt25.data.prepare import prepare
from lt25.data.prepared import PreparedSplit
from lt25.data.tokenizer import END
from lt25.errors import UserError
from lt25.models.families import Family
from lt25.training.job import read_job, write_job
from lt25.training.run import identity_of
from tests import tiny
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
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["def f1(x):", "def"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    lengths = [len(tokenizer(text).input_ids) for text in texts]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["input_ids"][1, 0] == stats(folder)["model"]["pad_token_id"]


def mixed_texts(root):
    """The same corpus in every form: JSON lines with something wrong in them, Parquet in groups of rows, files, a CSV."""
    rows = [{"text": "".join(CODE.format(number + line) for line in range(number % 9))} for number in range(60)]
    lines = [json.dumps(row) for row in rows[:30]]
    lines[4:4] = ["", '{"text": 1', '{"text": ""}']
    make.write(root / "a.jsonl", "\n".join(lines).encode() + b'\n{"text": "\xff"}\n')
    pq.write_table(pa.Table.from_pylist(rows[30:50]), root / "b.parquet", row_group_size=7)
    make.write(root / "c.csv", 'text\n"' + '"\n"'.join(row["text"] for row in rows[50:] if row["text"]) + '"\n')
    return rows


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A corpus prepared as tokens and as text, in chunks of a few documents."""
    root = tmp_path_factory.mktemp("stores")
    mixed_texts(root / "mine")
    data = make.dataset("language_modeling", {"path": "mine"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "SIZE", 300)
        patch.chdir(root)
        yield {
            store: make.prepared(root, "language_modeling", data, vocab_size=280, store=store)
            for store in ("tokens", "text")
        }


def first_windows(folder, count=40, share=None, numbers=None, state=None):
    """Return the first windows, or those of these numbers from a state on, and the state after them."""
    share = share or Share(4)
    source = language_modeling.source(PreparedSplit(folder, "train"), Reading(share, 3, seq_len=24))
    if state:
        source.load_state_dict(state)
    try:
        return [source[index] for index in numbers or range(count)], source.state_dict()
    finally:
        source.close()


def test_text_that_is_tokenized_as_training_goes_gives_the_windows_of_prepared_tokens(stores):
    tokens, text = (stats(stores[store]) for store in ("tokens", "text"))
    assert tokens["model"] == text["model"]
    assert text["splits"]["train"] == {"store": "text", "examples": tokens["splits"]["train"]["examples"]}
    assert all(tokens["splits"][split] == text["splits"][split] for split in ("validation", "test"))
    assert len(PreparedSplit(stores["tokens"], "train").shards["chunk_offsets"]) > 20
    (ahead, place), (going, other) = first_windows(stores["tokens"]), first_windows(stores["text"])
    assert place == other
    assert all(torch.equal(one[key], two[key]) for one, two in zip(ahead, going, strict=True) for key in one)


def test_what_is_wrong_in_the_texts_is_said_while_training_goes_on(stores, capsys):
    first_windows(stores["text"], 400)
    said = capsys.readouterr().err
    assert "left out while training: a.jsonl, line 6: no valid JSON" in said
    assert "left out while training: a.jsonl, line 34: not utf-8" in said
    assert said.count("left out while training") == 2


def test_texts_that_have_changed_are_refused(stores):
    path = stores["text"].parents[3] / "mine/c.csv"
    written = path.read_bytes()
    path.write_bytes(written + b"x\n")
    try:
        with pytest.raises(UserError, match=r"c.csv: not as it was when it was prepared: run `lt25 download tiny`"):
            first_windows(stores["text"])
    finally:
        path.write_bytes(written)


def test_a_preparation_that_is_stopped_goes_on_and_arrives_at_the_same(stores, tmp_path, monkeypatch):
    mixed_texts(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    data, done = make.dataset("language_modeling", {"path": "mine"}), []
    tokenize = language_modeling.tokenize

    def stopping(*arguments):
        done.append(arguments)
        if len(done) == 13:
            raise KeyboardInterrupt
        return tokenize(*arguments)

    monkeypatch.setattr(language_modeling, "tokenize", stopping)
    with pytest.raises(KeyboardInterrupt):
        make.prepared(tmp_path, "language_modeling", data, vocab_size=280)
    (parts,) = (tmp_path / "data/processed/tiny").glob(".*.parts-*")
    (kept := sorted(parts.glob("*.npz")))[0].write_bytes(b"torn")
    stopped, done[:] = len(kept), [None] * 20
    monkeypatch.setattr(language_modeling, "train", None)
    folder = make.prepared(tmp_path, "language_modeling", data, vocab_size=280)
    assert len(done) - 20 == len(PreparedSplit(folder, "train").shards["chunk_offsets"]) - stopped + 1
    assert stats(folder)["fingerprint"] == stats(stores["tokens"])["fingerprint"]
    assert not list(folder.parent.glob(".*"))


@pytest.mark.parametrize("kind", ["unigram", "bytes"])
def test_other_tokenizers_write_and_read_every_byte(tmp_path, kind):
    folder = make.prepared(tmp_path, "language_modeling", code(tmp_path / "mine", 4), vocab_size=270, tokenizer=kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert stats(folder)["model"]["vocab_size"] == len(tokenizer) <= (270 if kind == "unigram" else 257)
    text = "def ☃\x00\n\tzq <|endoftext|> \r\n"
    assert tokenizer.decode(tokenizer(text, split_special_tokens=True).input_ids) == text


def test_the_tokenizer_of_another_model_is_taken_without_what_it_puts_around_a_text(folder, tmp_path, monkeypatch):
    from tokenizers import processors

    other = AutoTokenizer.from_pretrained(folder)
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    other.save_pretrained(tmp_path / "other")
    make.write(tmp_path / "other/config.json", '{"model_type": "gla"}')
    loaded = []
    monkeypatch.setattr(Family, "load", lambda family: loaded.append(family.model_type))
    make.write(tmp_path / "config/experiments/none.yaml", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LT25_HUB_MIRROR", str(tmp_path))
    data = code(tmp_path / "mine", 4)
    taken = make.prepared(tmp_path, "language_modeling", data, tokenizer="other")
    assert stats(taken)["model"] == stats(folder)["model"]
    assert loaded == ["gla"], "of a model type that it does not know transformers warns"
    assert (
        AutoTokenizer.from_pretrained(taken)("def").input_ids == AutoTokenizer.from_pretrained(folder)("def").input_ids
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"prepare.tokenizer: found nowhere: no such tokenizer \(.*\): name bpe, unigram"
    ):
        make.prepared(tmp_path, "language_modeling", data, tokenizer="nowhere")


def test_without_a_way_to_the_hub_a_tokenizer_is_refused_before_files_are_asked_for(monkeypatch):
    asked, slept = [], []

    def refuse(error):
        def model_info(self, name, timeout):
            asked.append(timeout)
            raise error

        monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)

    def load(name):
        raise OSError("the client has waited")

    monkeypatch.setattr("lt25.data.tokenizer.here", lambda name: None)
    monkeypatch.setattr("lt25.data.tokenizer.time.sleep", slept.append)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", load)
    refuse(httpx.ConnectError("Name or service not known"))
    with pytest.raises(UserError, match=r"no such tokenizer \(it is not here, and the Hub cannot be reached: Name or"):
        tokenizer.borrow("nobody/nothing", "prepare.tokenizer")
    assert len(asked) == 3 and 0 < sum(slept) < 5
    # What may pass is waited for.
    refuse(httpx.ReadTimeout("slow"))
    with pytest.raises(UserError, match=r"no such tokenizer \(the client has waited\): name bpe"):
        tokenizer.borrow("nobody/nothing", "prepare.tokenizer")
    # What was fetched before needs no network.
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"/cache/{file}")
    asked.clear()
    with pytest.raises(UserError, match="the client has waited"):
        tokenizer.borrow("nobody/nothing", "prepare.tokenizer")
    assert not asked


def test_tokens_of_another_model_may_leave_numbers_out():
    from tokenizers import Tokenizer, models

    model = Tokenizer(models.WordLevel({"a": 0, "b": 5, END: 9}, unk_token=END))
    assert tokenizer.Tokenizer(model, END).size == 10


def test_a_long_text_is_tokenized_in_pieces_that_add_up(monkeypatch):
    text = "".join(CODE.format(number) for number in range(40))
    monkeypatch.setattr(tokenizer, "PIECE", 100)
    pieces = tokenizer._pieces(text)
    assert "".join(pieces) == text and len(pieces) > 10 and max(map(len, pieces)) <= 200
    assert all(piece.startswith("def") for piece in pieces)


def test_a_long_text_is_not_divided_for_a_tokenizer_that_writes_a_space_before_it(monkeypatch):
    from tokenizers import Tokenizer, models, normalizers

    vocabulary = {"<s>": 0, "</s>": 1, "\u2581": 2, "a": 3, "\n": 4}
    model = Tokenizer(models.BPE(vocabulary, []))
    model.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    monkeypatch.setattr(tokenizer, "PIECE", 4)
    (tokens,) = tokenizer.Tokenizer(model, "</s>").documents(["a\n" * 8])
    assert tokens.tolist() == [2, *[3, 4] * 8, 1]


def test_several_datasets_are_prepared_together_and_read_as_often_as_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    (tmp_path / "config/datasets").unlink()
    for number, word in enumerate(("first", "second")):
        make.write(tmp_path / f"{word}.txt", f"{word} {number} " * 900 + "\n")
        settings = {
            "title": word,
            "licence": "none",
            "tasks": ["language_modeling"],
            "origin": {"path": ".", "files": {"all": f"{word}.txt"}},
            "columns": {"text": "text"},
            "splits": {"train": "all", "test": {"from": "train", "fraction": 0.1}},
        }
        make.write(tmp_path / f"config/datasets/{word}.yaml", yaml.safe_dump(settings))
    mixture = [{"name": "first", "probability": 0.75}, {"name": "second", "probability": 0.25}]
    experiment = tiny.write_experiment(
        tmp_path, "language_modeling", dataset=None, datasets=mixture, prepare={"tokenizer": "bytes"}
    )
    assert experiment.probabilities == (0.75, 0.25)
    assert list(experiment.missing()) == ["download", "prepare", "train", "export", "evaluate"]
    assert experiment.missing()["download"] == "lt25 download first && lt25 download second"
    for dataset in experiment.datasets:
        acquire(dataset, experiment.raw_dir_of(dataset))
    assert check_experiment(experiment) == "; to be run: prepare, train, export, evaluate"
    prepare(experiment)
    write_job(experiment)
    job = read_job(experiment.job_file)
    assert job["lt25"]["probabilities"] == [0.75, 0.25]
    assert identity_of(job, 1)["probabilities"] == [0.75, 0.25]
    assert list(PreparedSplit(experiment.processed_dir, "test").table().path) == ["first.txt", "second.txt"]
    split, reading = (
        PreparedSplit(experiment.processed_dir, "train"),
        Reading(Share(8), 3, seq_len=32, probabilities=(0.75, 0.25)),
    )
    source = language_modeling.source(split, reading)
    ord_i = AutoTokenizer.from_pretrained(experiment.processed_dir)("i").input_ids[0]
    of_first = [(source[index]["label"] == ord_i).any().item() for index in range(400)]
    assert 0.68 < sum(of_first) / 400 < 0.82
    make.write(tmp_path / "second.txt", "")
    acquire(experiment.further[0], experiment.raw_dir_of(experiment.further[0]))
    with pytest.raises(
        UserError, match=r"config/datasets/second\.yaml: splits\.train: no examples, or empty texts only"
    ):
        prepare(experiment)
    settings = {"task": "language_modeling", "dataset": None, "datasets": mixture}
    for wrong, message in (
        ({"dataset": "first"}, "dataset: is there, and datasets too"),
        ({"datasets": [mixture[0], mixture[0]]}, "datasets: first is there twice"),
        ({"datasets": [mixture[0], {**mixture[1], "probability": 0.45}]}, "datasets: the probabilities add up to 1.2"),
        (
            {"datasets": [mixture[0], {**mixture[1], "probability": float("nan")}]},
            r"datasets\[1\].probability: found nan",
        ),
        ({"task": "classification"}, "datasets: several are for language_modeling"),
    ):
        with pytest.raises(UserError, match=message):
            tiny.write_experiment(tmp_path, **{**settings, **wrong})


def test_what_is_wrong_is_counted_once_whatever_is_read_twice(tmp_path, monkeypatch, capsys):
    """The tokenizer reads train before it is tokenized, of a published split stored as text all that is ever read of it."""
    monkeypatch.chdir(tiny.make_project(tmp_path))
    (tmp_path / "config/datasets").unlink()
    for name, faulty in (("one", 0), ("two", 3)):
        lines = [json.dumps({"text": CODE.format(number)}) for number in range(100)]
        make.write(tmp_path / name / "train.jsonl", "\n".join(lines + ['{"text": 1'] * faulty))
        make.write(tmp_path / name / "test.jsonl", "\n".join(lines[:4]))
        settings = {"title": name, "licence": "none", "tasks": ["language_modeling"], "origin": {"path": name}}
        settings |= {
            "columns": {"text": "text"},
            "splits": {"train": "train", "validation": "test", "test": "test"},
        }
        make.write(tmp_path / f"config/datasets/{name}.yaml", yaml.safe_dump(settings))
    both = [{"name": "one", "probability": 0.5}, {"name": "two", "probability": 0.5}]
    for store, datasets, used in (("tokens", both, 216), ("text", both, 216), ("text", None, 108)):
        data = {"datasets": both, "dataset": None} if datasets else {"dataset": "two"}
        options = {"vocab_size": 280, "store": store}
        experiment = tiny.write_experiment(tmp_path, "language_modeling", prepare=options, **data)
        for dataset in experiment.datasets:
            acquire(dataset, experiment.raw_dir_of(dataset))
        prepare(experiment)
        said = capsys.readouterr().err
        assert f"left out, 3 of {used + 3} examples cannot be used: 3 x a row that cannot be read" in said
        place = "two: train.jsonl, line 101" if datasets else "train.jsonl, line 101"
        assert stats(experiment.processed_dir)["excluded"][0].startswith(f"{place}: no valid JSON")


def of_hub(streamed):
    origin = {"hub": "owner/texts", **({"streamed": True} if streamed else {})}
    return make.dataset("language_modeling", origin)


def hub_files(root):
    rows = [{"text": "".join(CODE.format(number + line) for line in range(number % 9))} for number in range(40)]
    root.mkdir(parents=True)
    for number in range(2):
        pq.write_table(
            pa.Table.from_pylist(rows[20 * number : 20 * number + 20]), root / f"{number}.parquet", row_group_size=4
        )


def test_what_is_streamed_from_a_mirror_is_not_copied_and_gives_the_same(tmp_path, monkeypatch):
    hub_files(tmp_path / "hub/owner/texts")
    monkeypatch.setattr(chunks, "SIZE", 300)
    folders = {}
    for streamed in (False, True):
        root = tmp_path / str(streamed)
        folders[streamed] = make.prepared(
            root, "language_modeling", of_hub(streamed), tmp_path / "hub", vocab_size=280, store="text"
        )
        assert len(list((root / "data/raw/tiny").iterdir())) == (1 if streamed else 3)
    copied, streamed = (first_windows(folders[which])[0] for which in (False, True))
    assert all(torch.equal(one["input"], two["input"]) for one, two in zip(copied, streamed, strict=True))


def test_what_is_streamed_from_the_hub_is_read_where_it_is(tmp_path, monkeypatch):
    import fsspec
    import huggingface_hub

    hub_files(tmp_path / "hub/owner/texts")
    there = fsspec.filesystem("memory")
    there.put(str(tmp_path / "hub/owner/texts"), "/datasets/owner/texts@c0ffee", recursive=True)
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: there)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "hub/owner/texts").iterdir()}
    monkeypatch.setattr(hub, "_on_hub", lambda origin, wanted: ("c0ffee", sizes))
    monkeypatch.setattr(chunks, "SIZE", 300)
    remote = make.prepared(tmp_path / "remote", "language_modeling", of_hub(True), vocab_size=280, store="text")
    known = json.loads((tmp_path / "remote/data/raw/tiny/SOURCE.json").read_text())
    assert (known["root"], known["revision"]) == ("hf://datasets/owner/texts@c0ffee", "c0ffee")
    here = make.prepared(
        tmp_path / "here", "language_modeling", of_hub(False), tmp_path / "hub", vocab_size=280, store="tokens"
    )
    ahead, going = first_windows(here)[0], first_windows(remote)[0]
    assert all(torch.equal(one["input"], two["input"]) for one, two in zip(ahead, going, strict=True))
