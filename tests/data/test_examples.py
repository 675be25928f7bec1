import numpy as np
import pytest

from lt25.data.examples import Examples
from lt25.data.faults import Faults
from lt25.data.folders import Folder, files_below
from lt25.errors import UserError
from tests.data import make


def texts(root, splits=None, columns=None, **origin):
    return examples("language_modeling", root, columns, splits, **origin)


def examples(task, root, columns=None, splits=None, faulty="stop", **origin):
    names, _ = files_below(root)
    return Examples(
        make.dataset(task, {"path": "x", **origin}, columns, splits), Folder(root, names), Faults("tiny", faulty)
    )


def split_of(examples):
    return {example.id: example.split for example in examples.of("train", "validation", "test")}


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        make.write(tmp_path / f"{number:02d}.txt", f"text {number}")
    return tmp_path


def test_held_out_parts_are_disjoint_complete_and_about_as_large_as_asked(folder):
    sides = split_of(texts(folder))
    assert len(sides) == 40
    assert all(4 <= list(sides.values()).count(split) <= 16 for split in ("validation", "test"))


def test_the_test_split_does_not_depend_on_what_is_held_out_for_validation(folder):
    without = {**make.HELD_OUT, "validation": {"from": "train", "fraction": 0.01}}
    tests = [{id for id, side in split_of(texts(folder, s)).items() if side == "test"} for s in (None, without)]
    assert tests[0] == tests[1] != set()


def test_an_example_stays_on_its_side_when_others_come_or_go(folder):
    before = split_of(texts(folder))
    (folder / "07.txt").unlink()
    after = split_of(texts(folder))
    assert after == {id: side for id, side in before.items() if id != "07.txt"}


def test_groups_are_held_out_by_name_and_fractions_are_then_of_the_other_examples(tmp_path):
    rows = [{"text": f"text {n}", "speaker": ("anna", "ben", "cleo")[n % 3], "n": n} for n in range(90)]
    make.parquet(tmp_path / "all.parquet", rows)
    splits = {
        "train": "all",
        "validation": {"from": "train", "fraction": 0.2},
        "test": {"from": "train", "groups": ["ben"]},
    }
    sides = split_of(texts(tmp_path, splits, {"text": "text", "group": "speaker", "id": "n"}))
    assert {id for id, side in sides.items() if side == "test"} == {str(n) for n in range(1, 90, 3)}
    assert {rows[int(id)]["speaker"] for id, side in sides.items() if side == "validation"} == {"anna", "cleo"}


def test_duplicates_and_groups_are_never_on_two_sides(tmp_path):
    rows = [{"text": f"text {n % 10}", "speaker": f"speaker {n % 6}", "n": n} for n in range(60)]
    make.parquet(tmp_path / "all.parquet", rows)
    for columns, key in (
        ({"text": "text", "id": "n"}, "text"),
        ({"text": "text", "group": "speaker", "id": "n"}, "speaker"),
    ):
        sides = split_of(texts(tmp_path, columns=columns))
        for value in {row[key] for row in rows}:
            assert len({sides[str(row["n"])] for row in rows if row[key] == value}) == 1


def test_validation_is_held_out_of_train_when_nothing_is_said(folder):
    make.write(folder / "test" / "1.txt", "a test text")
    splits = {"train": "train", "test": "test"}
    examples = texts(folder, splits, files={"train": "*.txt", "test": "test/*.txt"})
    sides = split_of(examples)
    assert sides.pop("test/1.txt") == "test"
    assert set(sides.values()) == {"train", "validation"}


def test_the_end_of_a_single_document_is_held_out(tmp_path):
    lines = "".join(f"line {n}\n" for n in range(100))
    make.write(tmp_path / "book.txt", lines)
    parts = {example.split: example.roles["text"] for example in texts(tmp_path).of("train", "validation", "test")}
    assert parts["train"] + parts["validation"] + parts["test"] == lines
    assert all(part.endswith("\n") for part in parts.values())
    assert len(parts["test"]) == pytest.approx(0.25 * len(lines), abs=10)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("book.txt", "no line breaks " * 100),
        ("book.txt", "é☃𝄞" * 300),
        ("book.txt", "first line\n" + "the second is long " * 100),
        ("book.txt", "x" * 2000 + "\n"),
        ("book.jsonl", "\n".join(f'{{"text": "line {n} {"y" * 500}"}}' for n in range(3))),
    ],
    ids=["one line", "beyond latin", "two lines", "a line", "three rows"],
)
def test_a_corpus_of_few_lines_is_cut_to_size(tmp_path, name, content):
    make.write(tmp_path / name, content)
    parts = dict.fromkeys(("train", "validation", "test"), "")
    for example in texts(tmp_path).of(*parts):
        parts[example.split] += example.roles["text"]
    total = sum(map(len, parts.values()))
    assert len(parts["test"]) == pytest.approx(0.25 * total, rel=0.02)
    assert len(parts["validation"]) == pytest.approx(0.25 * 0.75 * total, rel=0.02)
    if name == "book.txt":
        assert "".join(parts.values()) == content


def test_a_further_test_split_is_cut_off_before_validation(tmp_path):
    make.write(tmp_path / "all.txt", "".join(f"{n:04d}\n" for n in range(1000)))
    parts = {split: {"from": "train", "fraction": 0.1} for split in ("validation", "test-other", "test")}
    found = texts(tmp_path, {"train": "all", **parts}).of("train", "validation", "test", "test-other")
    begins = {example.split: int(example.roles["text"][:4]) for example in found}
    assert begins["train"] == 0 and begins["validation"] < begins["test-other"] < begins["test"] == 900


def test_groups_are_not_cut(tmp_path):
    make.parquet(tmp_path / "all.parquet", [{"text": f"text {n}\n" * 20, "who": n} for n in range(10)])
    sides = split_of(texts(tmp_path, columns={"text": "text", "group": "who"}))
    assert len(sides) == 10 and not any("#" in name for name in sides)


def test_several_published_splits_make_one(tmp_path):
    for name in ("train.100", "train.360", "test"):
        make.parquet(tmp_path / name / "0000.parquet", [{"text": name}])
    splits = {"train": ["train.100", "train.360"], "validation": "test", "test": "test"}
    examples = texts(tmp_path, splits).of("train")
    assert [example.roles["text"] for example in examples] == ["train.100", "train.360"]


@pytest.mark.parametrize("name", ["train.jsonl", "data/train-00000-of-00001.jsonl", "train/part.jsonl"])
def test_a_split_is_found_by_its_name(tmp_path, name):
    make.write(tmp_path / name, '{"text": "yes"}\n')
    make.write(tmp_path / "trainer.jsonl", '{"text": "no"}\n')
    splits = {"train": "train", "validation": "train", "test": "train"}
    assert [example.roles["text"] for example in texts(tmp_path, splits).of("train")] == ["yes"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("all.jsonl", '{"text": "a"}\n{"tekst": "b"}\n', r"all.jsonl, line 2: no column text: it has tekst"),
        ("all.jsonl", '{"text": "a"}\n{"text": \n', r"all.jsonl, line 2: no valid JSON"),
        ("all.jsonl", '["a"]\n', r"all.jsonl, line 1: expected an object with columns"),
        ("all.jsonl", '{"text": null}\n', r"all.jsonl, line 1: column text has no value"),
        ("all.csv", "id,text\n1,a\n2\n", r"all.csv, line 3: fewer fields than the header"),
        ("all.csv", "id,tekst\n1,a\n", r"all.csv: no column text: it has id, tekst"),
        ("all.parquet", "no parquet", r"all.parquet: no readable Parquet file"),
        ("all.txt", b"caf\xe9", r"all.txt: byte 3 \(line 1\) is not utf-8: say what it is with the key encoding"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    make.write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        list(texts(tmp_path).of("train", "validation", "test"))


def test_a_parquet_file_without_the_column_is_named(tmp_path):
    make.parquet(tmp_path / "all.parquet", [{"content": "a"}])
    with pytest.raises(UserError, match=r"all.parquet: no column text: it has content; mend columns"):
        list(texts(tmp_path).of("train"))


def test_a_split_without_files_is_named(tmp_path):
    make.write(tmp_path / "train.txt", "a")
    with pytest.raises(UserError, match=r"tiny.yaml: splits: no file .* source's split dev"):
        list(texts(tmp_path, {"train": "train", "validation": "dev", "test": "train"}).of("validation"))
    with pytest.raises(UserError, match=r"splits: eval is none of origin.files, which are train"):
        list(texts(tmp_path, {"train": "train", "test": "eval"}, files={"train": "*.txt"}).of("test"))


def test_media_named_by_a_metadata_file(tmp_path):
    make.audio_folder(tmp_path / "clips", ["one", "two"])
    found = list(examples("speech_recognition", tmp_path).of("train", "validation", "test"))
    assert {(example.id, example.roles["text"]) for example in found} == {
        ("clips/0.wav", "one"),
        ("clips/1.wav", "two"),
    }
    assert all(example.roles["audio"]["bytes"][:4] == b"RIFF" for example in found)
    (tmp_path / "clips/1.wav").unlink()
    with pytest.raises(UserError, match=r"clips/metadata.csv, line 3: column audio: no such file: '1.wav'"):
        list(examples("speech_recognition", tmp_path).of("train"))


def test_audio_without_metadata_is_one_line(tmp_path):
    make.write(tmp_path / "a.wav", make.audio(np.random.default_rng(0), container="WAV"))
    with pytest.raises(
        UserError,
        match=r"columns.text: a.wav gives audio, label, path, top, not text: name one of them, or write a table",
    ):
        list(examples("speech_recognition", tmp_path).of("train"))
