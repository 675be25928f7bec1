"""One example that cannot be used, of every kind that docs/data.md lists, among others that can."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lt25.data.faults import MOST, NAMED, REASONS, Fault, Faults
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from tests.data import make
from tests.data.test_images import bomb

GOOD = 40


def images(root, bad):
    """Write class folders of images, and ``bad`` beside them."""
    make.image_folder(root, GOOD // 2)
    make.write(root / "dog/bad.png", bad)
    return {"input": "image", "label": "label"}


def photograph(root, bad):
    """Write class folders of images, and ``bad`` beside them as a telephone names its photographs."""
    make.image_folder(root, GOOD // 2)
    make.write(root / "dog/IMG_1.HEIC", bad)
    return {"input": "image", "label": "label"}


def table(root, bad):
    """Write a table that names images, with ``bad`` for its last line."""
    rng = np.random.default_rng(0)
    for number in range(GOOD):
        make.write(root / f"pictures/{number}.png", make.random_png(rng))
    lines = [f"pictures/{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(GOOD)]
    make.write(root / "all.csv", "\n".join(["picture,kind", *lines]).encode() + b"\n" + bad + b"\n")
    return {"input": "picture", "label": "kind"}


def series(root, bad):
    """Write series in JSON lines, with ``bad`` for the last."""
    rng = np.random.default_rng(0)
    rows = [{"values": rng.normal(size=(5, 2)).tolist(), "kind": ("up", "down")[n % 2]} for n in range(GOOD)]
    make.write(root / "all.jsonl", "\n".join(json.dumps(row) for row in [*rows, {"kind": "up", **bad}]) + "\n")
    return {"input": "values", "label": "kind"}


def long_form(root, bad):
    """Write series of a row a step, and a series of the row ``bad``."""
    rng = np.random.default_rng(0)
    rows = [f"s{n},{step},{rng.normal()},{('up', 'down')[n % 2]}" for n in range(GOOD) for step in range(5)]
    make.write(root / "all.csv", "\n".join(["who,when,x,kind", *rows, bad]) + "\n")
    return {"input": "x", "label": "kind", "id": "who", "time": "when"}


def speech(root, bad):
    """Write recordings with a table of transcripts, whose last are ``bad``: a recording and its transcript."""
    make.audio_folder(root, ["hello there"] * GOOD)
    lines = [{"file_name": f"{number}.wav", "text": "hello"} for number in range(GOOD)]
    make.write(root / "bad.flac", bad[0])
    make.write(root / "metadata.jsonl", "\n".join(map(json.dumps, [*lines, {"file_name": "bad.flac", "text": bad[1]}])))
    (root / "metadata.csv").unlink()
    return {"audio": "audio", "text": "text"}


def segments(root, bad):
    """Write recordings with a table that says where in each somebody speaks; of the last this is ``bad``."""
    make.audio_folder(root, ["hello there"] * GOOD)
    lines = [*(f"{number}.wav,hello,0.05,0.19" for number in range(GOOD)), f"0.wav,hello,{bad}"]
    make.write(root / "metadata.csv", "\n".join(["file_name,text,from,to", *lines]))
    return {"audio": "audio", "text": "text", "start": "from", "end": "to"}


def prepared(root, columns, **options):
    task = "speech_recognition" if "audio" in columns else "classification"
    limits = {"max_seconds": 2} if "audio" in columns else {"max_steps": 30} if columns["input"] == "values" else {}
    return make.prepared(root, task, make.dataset(task, {"path": "mine"}, columns), **limits, **options)


@pytest.mark.parametrize("policy", ["exclude", "stop"])
def test_a_column_that_no_line_of_json_has_is_one_line_for_every_task(tmp_path, policy):
    make.write(tmp_path / "mine/all.jsonl", '{"review": "good", "kind": "up"}\n' * 3)
    for task, columns in make.ROLES.items():
        data = make.dataset(task, {"path": "mine"}, columns)
        with pytest.raises(UserError, match=r"all.jsonl, line 1: no column \w+: it has review, kind"):
            make.prepared(tmp_path / task, task, replace(data, origin={"path": str(tmp_path / "mine")}), faulty=policy)


@pytest.mark.parametrize("task", sorted(make.ROLES))
def test_a_train_split_without_examples_is_one_line_for_every_task(tmp_path, task):
    columns = make.ROLES[task]
    header = ",".join(columns.values())
    make.write(tmp_path / "mine/all.csv", f"{header}\n")
    with pytest.raises(UserError, match=r"config/datasets/tiny.yaml: splits.train: no examples"):
        make.prepared(tmp_path, task, make.dataset(task, {"path": "mine"}, columns))


@pytest.mark.parametrize("number", [1, 30])
def test_texts_that_are_all_empty_are_said_to_be(tmp_path, number):
    """Whether they are few, each of which is cut into the splits, or whole ones belong to a split."""
    for name in range(number):
        make.write(tmp_path / f"mine/{name}.txt", "")
    with pytest.raises(UserError, match=r"splits.train: no examples, or empty texts only: "):
        make.prepared(
            tmp_path, "language_modeling", make.dataset("language_modeling", {"path": "mine"}, {"text": "text"})
        )


NOISE = np.random.default_rng(0)
AUDIO = make.audio(NOISE)

CASES = {
    "a missing file": [(table, b"gone.png,cat"), (table, b"https://example.org/0.png,cat")],
    "a file name that leads outside": [(table, b"../0.png,cat"), (table, b"/etc/hostname,cat")],
    "a file that cannot be read": [
        (images, b""),
        (images, b"no image"),
        (images, make.png(np.zeros((99, 99), np.uint8))[:60]),
        (speech, (b"", "hello")),
        (speech, (AUDIO[:2000], "hello")),
        (speech, (make.empty_wav(), "hello")),
        (speech, (b"\0\0\0\x20ftypM4A no audio", "hello")),
        (speech, (make.patched(make.wav(np.ones(800)), 24, 0), "hello")),
        (speech, (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16044\n", "hello")),
        (images, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16044\n"),
        (speech, (b"<!DOCTYPE html><title>404</title>", "hello")),
    ],
    "a file of a kind that is not read": [(photograph, b"")],
    "an image that is too large": [(images, bomb(50_000, 50_000))],
    "a row that cannot be read": [(table, b"0.png,cat,and,more"), (table, b"0.png")],
    "text in another encoding": [(table, b"pictures/0.png,caf\xe9")],
    "a missing value": [
        (table, b"pictures/0.png,"),
        (table, b",cat"),
        (series, {"values": None}),
        (series, {"kind": " "}),
    ],
    "an unusable label": [
        (series, {"values": [[1, 2]], "kind": ["up"]}),
        (series, {"values": [[1, 2]], "kind": 0.5}),
        (series, {"values": [[1, 2]], "kind": 3}),
    ],
    "input of another kind": [(series, {"values": {"bytes": 3}})],
    "input of another width": [(series, {"values": [[1, 2, 3]]}), (series, {"values": [1, 2, 3]})],
    "values that are no numbers": [
        (series, {"values": [[1, float("nan")]]}),
        (series, {"values": [[1, "x"]]}),
        (series, {"values": [[1, 1e200]]}),
        (series, {"values": [[1, 2], [3]]}),
        (series, {"values": []}),
        (series, {"values": [[[1, 2]]]}),
    ],
    "a time of another form": [(long_form, "bad,1/31/2024,0.5,up"), (long_form, "bad,9:05,0.5,up")],
    "input that is too long": [(series, {"values": [[1, 2]] * 50})],
    "a recording that is too long": [(speech, (make.audio(NOISE, 2.1), "hello"))],
    "a segment that is not there": [(segments, "soon,0.1"), (segments, "0.15,0.1"), (segments, "0.05,9")],
    "a silent recording": [
        (speech, (make.wav(np.zeros(8000)), "hello")),
        (speech, (make.wav(np.full(8000, 0.1)), "hello")),
    ],
    "a transcript of another kind": [(speech, (AUDIO, ["hello"])), (speech, (AUDIO, True))],
    "a transcript outside the alphabet": [(speech, (AUDIO, "50 %")), (speech, (AUDIO, "привет"))],
    "an empty transcript": [(speech, (AUDIO, "")), (speech, (AUDIO, "...\u200b")), (speech, (AUDIO, "—?!"))],
    "a transcript too long for its audio": [(speech, (make.audio(NOISE, 0.05), "hello"))],
}
EVERY = [(reason, *case) for reason, cases in CASES.items() for case in cases]


def test_every_reason_has_a_case():
    # The word has its test in test_speech_recognition.py: whether train lacks it depends on the split of the example.
    assert {*CASES, "a word that train lacks"} == set(REASONS)


@pytest.mark.parametrize(("reason", "write", "bad"), EVERY)
def test_one_bad_example_is_left_out_counted_and_named(tmp_path, capsys, reason, write, bad):
    folder = prepared(tmp_path, write(tmp_path / "mine", bad))
    stats = json.loads((folder / "stats.json").read_text())
    assert sum(len(PreparedSplit(folder, split)) for split in stats["splits"]) == GOOD
    counted = [split["excluded"] for split in stats["splits"].values() if split["excluded"]]
    said = capsys.readouterr().err
    assert counted == [{reason: 1}]
    assert f"left out, 1 of {GOOD + 1} examples cannot be used: 1 x {reason}" in said
    assert len(stats["excluded"]) == 1 and f"left out: {stats['excluded'][0]}\n" in said
    assert "\n" not in stats["excluded"][0]


@pytest.mark.parametrize(("reason", "write", "bad"), [EVERY[n] for n in (0, 3, 7, 11, 15, -1)])
def test_the_first_bad_example_stops_where_that_is_wanted(tmp_path, reason, write, bad):
    columns = write(tmp_path / "mine", bad)
    with pytest.raises(UserError, match=r": mend or remove it, or set prepare.faulty to exclude$") as caught:
        prepared(tmp_path, columns, faulty="stop")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data/processed/tiny").iterdir())


@pytest.mark.parametrize(("write", "bad"), [(images, b""), (speech, (b"", "hello")), (speech, (AUDIO, "50 %"))])
def test_rows_of_one_file_count_each_and_are_named_by_their_lines(tmp_path, write, bad):
    columns = write(tmp_path / "mine", bad)
    roles = ("file_name", "text") if "audio" in columns else ("file_name", "label")
    good = [(f"{n}.wav", "hello") for n in range(GOOD)] if "audio" in columns else []
    good = good or [(f"{kind}/{n}.png", kind) for kind in ("cat", "dog") for n in range(GOOD // 2)]
    name, value = ("bad.flac", bad[1]) if "audio" in columns else ("dog/bad.png", "dog")
    for table in (tmp_path / "mine").glob("metadata*"):
        table.unlink()

    def rows(count):
        lines = [",".join(row) for row in [roles, *good, *[(name, value)] * count]]
        make.write(tmp_path / "mine/metadata.csv", "\n".join(lines) + "\n")
        return prepared(tmp_path, columns)

    stats = json.loads((rows(2) / "stats.json").read_text())
    assert sum(sum(split["excluded"].values()) for split in stats["splits"].values()) == 2
    first, second = (f"metadata.csv, line {line}: {name}: " for line in (GOOD + 2, GOOD + 3))
    assert stats["excluded"][0].startswith(first) and stats["excluded"][1].startswith(second)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UserError, match=rf"20 of {GOOD + 20} examples cannot be used: 20 x"):
        rows(20)


def test_what_cannot_be_used_gives_the_same_bytes_each_time(tmp_path):
    columns = speech(tmp_path / "mine", (b"", "hello"))
    before = {path.name: path.read_bytes() for path in prepared(tmp_path, columns).iterdir()}
    assert b"bad.flac: the file is empty" in before["stats.json"]
    shutil.rmtree(tmp_path / "data")
    assert {path.name: path.read_bytes() for path in prepared(tmp_path, columns).iterdir()} == before


@pytest.mark.parametrize("bad", [1, 2, 3, 30, GOOD])
def test_more_than_a_twentieth_is_an_error(tmp_path, bad):
    make.image_folder(tmp_path / "mine", GOOD // 2)
    for number in range(bad):
        make.write(tmp_path / f"mine/{('cat', 'dog')[number % 2]}/{number // 2}.png", f"no image {number}")
    data = make.dataset("classification", {"path": "mine"})
    if bad * 20 <= GOOD:
        make.prepared(tmp_path, "classification", data)
        return
    # Of nothing but bad ones train is looked through first.
    seen = bad if bad < GOOD else r"\d+"
    told = rf"dataset tiny: {seen} of \d+ examples cannot be used: {seen} x a file that cannot be read; the first: cat/0.png: no"
    with pytest.raises(UserError, match=told):
        make.prepared(tmp_path, "classification", data)


def test_ten_are_named_and_the_others_counted(capsys):
    faults = Faults("tiny", "exclude")
    for _ in range(2):  # two passes over the data
        for number in range(12):
            faults.add("train", Fault("a missing file", f"a.csv, line {number}", "gone"))
    faults.report(12 * MOST)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("tiny: left out, 12 of 252 examples cannot be used: 12 x a missing file")
    assert len(said) == NAMED + 2 and said[-1] == "tiny: left out: 2 more"
    assert faults.counts("train") == {"a missing file": 12} and faults.counts("test") == {}


def test_ten_are_named_where_so_many_are_an_error_too(capsys):
    faults = Faults("tiny", "exclude")
    for number in range(12):
        faults.add("train", Fault("a missing file", f"a.csv, line {number}", "gone"))
    with pytest.raises(UserError, match="12 of 112 examples cannot be used"):
        faults.report(100)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        *(f"tiny: cannot be used: a.csv, line {number}: gone" for number in range(NAMED)),
        "tiny: cannot be used: 2 more",
    ]


def test_a_task_without_the_key_stops():
    with pytest.raises(UserError, match=r"^a: b: mend or remove it$"):
        Faults("tiny").add("train", Fault("a missing file", "a", "b"))
