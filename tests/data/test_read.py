"""Tables and files as strangers have them."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lt25.data.examples import Examples
from lt25.data.faults import Faults
from lt25.data.folders import Folder, files_below
from lt25.data.read import unread
from lt25.errors import UserError
from tests.data import make

ALL = {"train": "all", "validation": "all", "test": "all"}


def found(root, task="language_modeling", columns=None, faulty="exclude", **options):
    """Return the examples of a folder, and the faults: (reason, line)."""
    faults = Faults("tiny", faulty)
    data = make.dataset(task, {"path": "x"}, columns, ALL, **options)
    examples = list(Examples(data, Folder(root, files_below(root)[0]), faults).of("train"))
    return examples, [(fault.reason, str(fault)) for _, fault in faults._found.values()]


def texts(root, **options):
    examples, faults = found(root, **options)
    return [example.roles["text"] for example in examples], faults


@pytest.mark.parametrize(
    ("name", "content", "kept", "reason", "line"),
    [
        (
            "a.csv",
            b"text\na\ncaf\xe9\nb\n",
            ["a", "b"],
            "text in another encoding",
            "a.csv, line 3: column text: not utf-8",
        ),
        (
            "a.csv",
            b'text,n\na,1\n"b\nc",2\nd\ne,5\n',
            ["a", "b\nc", "e"],
            "a row that cannot be read",
            "a.csv, line 5: fewer",
        ),
        ("a.csv", b"text,n\nyes, he said,2\nb,3\n", ["b"], "a row that cannot be read", "a.csv, line 2: more fields"),
        ("a.csv", b'text,n\n"a"b,1\nc,2\n', ["c"], "a row that cannot be read", "a.csv, line 2: no valid CSV"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n',
            ["a"],
            "text in another encoding",
            "a.jsonl, line 2: not utf-8",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"text": "\\ud83d"}\n',
            ["a"],
            "text in another encoding",
            "a.jsonl, line 3: column",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b", "text": "c"}\n{"text": "d"}\n',
            ["a", "d"],
            "a row that cannot be read",
            "a.jsonl, line 2: no valid JSON (the key text stands twice)",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": ' + b"[" * 10**5 + b"\n",
            ["a"],
            "a row that cannot be read",
            "a.jsonl, line 2",
        ),
        (
            "a.jsonl",
            b'{"text": ' + b"9" * 5000 + b'}\n{"text": "b"}\n',
            ["b"],
            "a row that cannot be read",
            "a.jsonl, line 1",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"txt": "b"}\n',
            ["a"],
            "a missing value",
            "a.jsonl, line 2: no column text: it has txt",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": null}\n',
            ["a"],
            "a missing value",
            "a.jsonl, line 2: column text has no value",
        ),
    ],
)
def test_a_line_that_cannot_be_read_is_left_out_by_its_number(tmp_path, name, content, kept, reason, line):
    make.write(tmp_path / name, content)
    read, ((counted, told),) = texts(tmp_path)
    assert read == kept
    assert counted == reason and told.startswith(line)
    with pytest.raises(UserError, match=line.split(":")[0]):
        texts(tmp_path, faulty="stop")


@pytest.mark.parametrize("text", ["x" * 200_000, "a\nb", 'he said "no"', " spaces "])
def test_any_text_comes_out_of_csv_as_it_is(tmp_path, text):
    rows = io.StringIO()
    csv.writer(rows).writerows([["id", "text"], ["1", text], ["2", "last"]])
    make.write(tmp_path / "a.csv", rows.getvalue())
    assert texts(tmp_path) == ([text, "last"], [])


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path):
    make.write(tmp_path / "a.csv", "text\nfine\n" + '"never closed\n' + "lost\n" * 1000)
    with pytest.raises(UserError, match=r"a.csv, line 3: a quote that opens here or soon after is never closed"):
        texts(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "id;text\n1;a, b\n2;c\n",
        "id\ttext\n1\ta, b\n2\tc\n",
        ' id , text \r\n1,"a, b"\r\n\r\n2,c\r\n,\r\n',
        '\ufeffid,text,,\n1,"a, b",,\n2,c,,\n',
    ],
    ids=["semicolons", "tabs", "windows", "excel"],
)
def test_tables_as_spreadsheets_write_them(tmp_path, content):
    make.write(tmp_path / "a.csv", content)
    assert texts(tmp_path) == (["a, b", "c"], [])


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_text_in_another_encoding_is_read_when_it_is_named(tmp_path, encoding, kind):
    text = "déjà vu à la façade"
    whole = {"csv": f"text,n\n{text},1\n", "tsv": f"text\tn\n{text}\t1\n", "txt": text}
    whole["jsonl"] = json.dumps({"text": text}, ensure_ascii=False) + "\n"
    make.write(tmp_path / f"a.{kind}", whole[kind].encode(encoding))
    assert texts(tmp_path, encoding=encoding) == ([text], [])


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_whole_file_in_another_encoding_is_one_line(tmp_path, name):
    make.write(tmp_path / name, '{"text": "é"},é\n'.encode("utf-16") * 2)
    with pytest.raises(
        UserError, match=r"a\.(csv|jsonl)(, line 1)?: not utf-8.*`encoding: latin-1`, `cp1252` or `utf-16`"
    ) as caught:
        texts(tmp_path, faulty="stop")
    assert "\n" not in str(caught.value)


def test_a_mark_of_windows_before_a_text_is_no_part_of_it(tmp_path):
    make.write(tmp_path / "a.txt", "\ufeffa")
    assert texts(tmp_path) == (["a"], [])


# What a table says of a file, and which file of clips/ and elsewhere/ that is.
@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("1.wav", "clips/1.wav"),
        ("sub/2.wav", "clips/sub/2.wav"),
        ("clips/1.wav", "clips/1.wav"),
        ("../other/3.wav", "other/3.wav"),
        ("sub\\2.wav", "clips/sub/2.wav"),
        (" 1.wav ", "clips/1.wav"),
        ("{root}/other/3.wav", "other/3.wav"),
        ("../../secret.wav", "a file name that leads outside"),
        ("{root}/../secret.wav", "a file name that leads outside"),
        ("/etc/passwd", "a file name that leads outside"),
        ("4.wav", "a missing file"),
        ("sub", "a missing file"),
        (".", "a missing file"),
        ("1.wav\0.png", "a missing file"),
        ("x" * 5000, "a missing file"),
        ("http://example.org/1.wav", "a missing file"),
        ("", "a missing value"),
    ],
)
@pytest.mark.parametrize("table", ["metadata.jsonl", "my recordings.jsonl"])
def test_a_column_of_any_name_names_the_file(tmp_path, table, written, kept):
    root, sound = tmp_path / "mine", make.audio(np.random.default_rng(0), container="WAV")
    for name in ("clips/1.wav", "clips/sub/2.wav", "other/3.wav", "../secret.wav"):
        make.write(root / name, sound)
    row = {"Recording": written.format(root=root), "Words": "one"}
    make.write(root / "clips" / table, json.dumps(row) + "\n")
    examples, faults = found(root, "speech_recognition", {"audio": "Recording", "text": "Words"})
    assert [example.id for example in examples] + [reason for reason, _ in faults] == [kept]
    assert all(line.startswith(f"clips/{table}, line 1: column Recording") and "\n" not in line for _, line in faults)


@pytest.mark.parametrize("value", [None, 7, ["1.wav"], {"path": "1.wav"}])
def test_a_name_that_is_no_text_is_no_traceback(tmp_path, value):
    make.write(tmp_path / "a.jsonl", json.dumps({"image": value, "label": "x"}) + "\n")
    _, faults = found(tmp_path, "classification")
    assert [reason for reason, _ in faults] in ([], ["a missing value"])


def test_every_kind_of_file_gives_its_folder_as_label(tmp_path):
    make.write(tmp_path / "cat/1.npy", "")
    make.write(tmp_path / "dog/notes.txt", "")
    examples, _ = found(tmp_path, "classification", {"input": "series", "label": "label", "group": "top", "id": "path"})
    assert [(example.id, example.roles["label"]) for example in examples] == [("cat/1.npy", "cat")]


def test_a_folder_of_files_of_unknown_kinds_is_one_line_that_says_what_to_do(tmp_path):
    make.write(tmp_path / "cat/1.HEIC", "")
    make.write(tmp_path / "what they are.xlsx", "")
    make.write(tmp_path / "Thumbs.db", "")
    with pytest.raises(
        UserError, match=r"tiny.yaml: columns: of the files of all \(.db, .heic, .xlsx\) none "
    ) as caught:
        found(tmp_path, "classification")
    assert str(caught.value).endswith("; convert to JPEG: .heic; save as CSV: .xlsx")


def test_recordings_with_a_spreadsheet_are_one_line_that_says_what_to_do(tmp_path):
    make.write(tmp_path / "memo.m4a", "")
    make.write(tmp_path / "said.xlsx", "")
    for columns in ({"audio": "Memo", "text": "Said"}, {"audio": "audio", "text": "Said"}):
        with pytest.raises(UserError, match=r"; save as CSV: .xlsx$"):
            found(tmp_path, "speech_recognition", columns)


def test_a_photograph_among_others_that_has_to_be_converted_is_counted(tmp_path):
    make.image_folder(tmp_path, 2)
    make.write(tmp_path / "cat/IMG_1.HEIC", "")
    make.write(tmp_path / "cat/notes.pdf", "")
    examples, faults = found(tmp_path, "classification")
    assert len(examples) == 4
    assert faults == [("a file of a kind that is not read", "cat/IMG_1.HEIC: .heic is not read: convert to JPEG")]


def test_what_is_not_read_is_a_line_for_each_suffix():
    names = [
        "1.HEIC",
        "a/2.heic",
        "b.xlsx",
        "x.zip",
        "README",
        "c.csv",
        "d.wav",
        "e.m4a",
        "f.dat",
        "g.json.zst",
        "h.csv.zst",
        "g.json",
    ]
    assert unread(names, ["audio", "text"]) == [
        "1 file without suffix: not read",
        "1 file .dat: not read",
        "2 files .heic: not read: convert to JPEG",
        "1 file .json: not read: write an object a line, as .jsonl",
        "1 file .xlsx: not read: save as CSV",
        "1 file .zip: not read: unpack",
        "1 file .zst: not read: unpack",
    ]


def test_files_of_a_kind_that_is_not_asked_for_are_not_read():
    names = ["cat/1.png", "cat/notes.txt", "dog/2.png", "dog/bark.wav"]
    assert unread(names, ["image", "label"]) == ["1 file .txt: not read", "1 file .wav: not read"]
    assert unread([*names, "metadata.csv"], ["image", "label"]) == ["1 file .txt: not read"]
    assert unread(names, ["label"]) == []


def test_two_columns_of_one_name_are_one_line(tmp_path):
    make.write(tmp_path / "a.csv", "text,id,text\na,1,b\n")
    with pytest.raises(UserError, match=r"a.csv, line 1: 2 columns are named text: give each a name of its own"):
        found(tmp_path, "language_modeling")
    make.write(tmp_path / "a.csv", "text,id,id\na,1,b\n")
    assert len(found(tmp_path, "language_modeling")[0]) == 1
    (tmp_path / "a.csv").unlink()
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: 2 columns are named text: give each a name of its own"):
        found(tmp_path, "language_modeling")
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["text", "id", "id"]), tmp_path / "a.parquet")
    assert len(found(tmp_path, "language_modeling")[0]) == 1


def test_a_name_but_for_its_suffix_or_capitals_is_said_with_the_file_that_is_meant(tmp_path):
    make.write(tmp_path / "memos/Memo 1.WAV", b"")
    make.write(tmp_path / "a.csv", "clip,what\nmemo 1,x\nmemo 1.mp3,x\nother,x\n")
    _, faults = found(tmp_path, "speech_recognition", {"audio": "clip", "text": "what"})
    assert [line.partition("no such file: ")[2] for _, line in faults] == [
        "'memo 1': there is memos/Memo 1.WAV",
        "'memo 1.mp3': there is memos/Memo 1.WAV",
        "'other'",
    ]


def test_where_a_file_is_a_series_one_that_cannot_be_read_is_left_out(tmp_path):
    for number in range(4):
        make.write(tmp_path / f"walk/{number}.csv", "t,x\n1,2\n2,3\n")
    make.write(tmp_path / "walk/4.csv", "# a logger's remark\nt,x\n1,2\n")
    make.write(tmp_path / "walk/5.csv", "")
    examples, faults = found(tmp_path, "classification", {"input": "x", "label": "label", "id": "path", "time": "t"})
    assert [example.id for example in examples] == [f"walk/{number}.csv" for number in range(4)]
    assert [reason for reason, _ in faults] == 2 * ["a file that cannot be read"]
    assert all(
        line.startswith(f"walk/{number}.csv: no column") for number, (_, line) in zip((4, 5), faults, strict=True)
    )


LONG = {"input": ["x", "y"], "label": "what", "id": "who", "time": "t"}


def test_series_in_long_form(tmp_path):
    make.write(
        tmp_path / "a.csv",
        "who,t,x,y,what\nb,2,20,21,run\na,10,1,2,sit\nb,1,10,11,run\na,9,3,4,sit\nb,3,30,31,run\n",
    )
    make.write(tmp_path / "b.csv", "who,t,x,y,what\na,1,5,6,run\n")
    examples, faults = found(tmp_path, "classification", LONG)
    assert [(example.id, example.roles["label"]) for example in examples] == [("b", "run"), ("a", "sit"), ("a", "run")]
    assert examples[0].roles["input"].tolist() == [[10, 11], [20, 21], [30, 31]]
    assert examples[1].roles["input"].tolist() == [[3, 4], [1, 2]]
    assert not faults


@pytest.mark.parametrize(
    ("bad", "reason", "line"),
    [
        ("a,3,n/a,2,sit", "values that are no numbers", "a.csv, line 4: column x: no finite number: 'n/a'"),
        ("a,3,,2,sit", "values that are no numbers", "a.csv, line 4: column x: no value: `missing: carry`"),
        ("a,3,1,nan,sit", "values that are no numbers", "a.csv, line 4: column y"),
        ("a,,1,2,sit", "a missing value", "a.csv, line 4: column t has no value"),
        ("a,3,1,2,run", "an unusable label", "a.csv, line 4: column what has several values in the series a"),
        (",3,1,2,sit", "a missing value", "a.csv, line 4: column who has no value"),
    ],
)
def test_a_series_with_a_bad_row_is_left_out_whole(tmp_path, bad, reason, line):
    make.write(tmp_path / "a.csv", f"who,t,x,y,what\na,1,1,2,sit\nb,1,3,4,run\n{bad}\na,4,1,2,sit\n")
    examples, ((counted, told),) = found(tmp_path, "classification", LONG)
    assert counted == reason and told.startswith(line)
    # What belongs to no series spoils none.
    assert [example.id for example in examples] == (["a", "b"] if "who has" in line else ["b"])


def test_times_may_be_dates_and_decimals_may_have_commas(tmp_path):
    make.write(
        tmp_path / "a.csv",
        "who;t;x;y;what\na;2024-01-02 00:00;2,5;1;sit\na;2024-01-01 23:59;-0,5;1e3;sit\n",
    )
    examples, faults = found(tmp_path, "classification", LONG)
    assert examples[0].roles["input"].tolist() == [[-0.5, 1000], [2.5, 1]] and not faults


@pytest.mark.parametrize(
    ("times", "passed"),
    [
        (("2024-01-02 00:00", "2024-01-01 23:59:30"), [0, 30]),
        (("2024/01/02 00:00", "2024/01/01 00:00"), [0, 86400]),
        (("10:00:01.5", "10:00"), [0, 1.5]),
        (("2024-01-01T10:00:00+02:00", "2024-01-01T07:59:00Z"), [0, 60]),
        (("5", "3.5"), [3.5, 5]),
    ],
)
def test_a_channel_of_dates_has_the_seconds_since_the_first(tmp_path, times, passed):
    make.write(tmp_path / "a.csv", "who,t,x,what\n" + "".join(f"a,{time},1,sit\n" for time in times))
    examples, faults = found(tmp_path, "classification", LONG | {"input": ["t", "x"]})
    assert examples[0].roles["input"].tolist() == [[time, 1] for time in passed] and not faults


@pytest.mark.parametrize("times", [("2024-01", "2024-02"), ("2024-01-01T10:00Z", "2024-01-01T11:00")])
def test_dates_that_cannot_be_counted_are_no_channel(tmp_path, times):
    make.write(tmp_path / "a.csv", "who,t,x,what\n" + "".join(f"a,{time},1,sit\n" for time in times))
    examples, ((reason, line),) = found(tmp_path, "classification", LONG | {"input": ["t", "x"]})
    assert reason == "a time of another form" and line.startswith("a.csv, who a: column t: not all") and not examples
    assert found(tmp_path, "classification", LONG | {"input": "x"})[0][0].roles["input"].tolist() == [[1], [1]]


def test_a_file_a_series_in_folders_of_classes(tmp_path):
    for name in ("run/1.csv", "sit/1.csv"):
        make.write(tmp_path / name, "t,x\n0,1\n1,2\n")
    columns = {"input": "x", "label": "label", "id": "path", "time": "t"}
    examples, _ = found(tmp_path, "classification", columns)
    assert [(example.id, example.roles["label"]) for example in examples] == [
        ("run/1.csv", "run"),
        ("sit/1.csv", "sit"),
    ]
    assert examples[0].roles["input"].tolist() == [[1], [2]]


def test_a_row_a_series(tmp_path):
    make.write(tmp_path / "a.csv", "label,s1,s2,s3\nup,1,2,3\ndown,3,2,x\n")
    examples, faults = found(tmp_path, "classification", {"input": ["s1", "s2", "s3"], "label": "label"})
    assert [example.roles["input"].tolist() for example in examples] == [[1, 2, 3]]
    assert [line for _, line in faults] == ["a.csv, line 3: column s3: no finite number: 'x'"]


@pytest.mark.parametrize(
    ("pattern", "values"),
    [("s*", [3, 1, 2]), ("*", [9, 3, 1, 2]), (["s1", "s*"], [1, 3, 2]), (["*1", "s0"], [1, 3])],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_pattern_names_the_columns_that_match_in_the_table_s_order(tmp_path, pattern, values, suffix):
    columns = {"label": ["up"], "mean": [9], "s0": [3], "s1": [1], "s2": [2]}
    if suffix == "parquet":
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    elif suffix == "jsonl":
        make.write(tmp_path / "a.jsonl", json.dumps({name: column[0] for name, column in columns.items()}) + "\n")
    else:
        make.write(tmp_path / "a.csv", "label,mean,s0,s1,s2\nup,9,3,1,2\n")
    examples, faults = found(tmp_path, "classification", {"input": pattern, "label": "label"})
    assert [example.roles["input"].tolist() for example in examples] == [values] and not faults


def test_a_pattern_names_channels_too_but_no_column_that_is_called_so(tmp_path):
    make.write(tmp_path / "a.csv", "who,t,x*,xy,what\na,1,2,3,sit\n")
    for pattern, values in (("x*", [2]), ("*", [2, 3]), ("*y", [3])):
        examples, _ = found(tmp_path, "classification", LONG | {"input": pattern})
        assert examples[0].roles["input"].tolist() == [values]


@pytest.mark.parametrize("labels", [np.array(["up", "down"]), np.array([b"up", b"down"])])
def test_arrays_side_by_side_are_a_table(tmp_path, labels):
    series = np.arange(12.0).reshape(2, 3, 2)
    np.savez(tmp_path / "a.npz", X=series, y=labels, other=np.zeros(7))
    examples, faults = found(tmp_path, "classification", {"input": "X", "label": "y"})
    assert [(example.id, example.roles["label"]) for example in examples] == [("a/0", "up"), ("a/1", "down")]
    assert [example.roles["input"].tolist() for example in examples] == series.tolist() and not faults


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((3, 2)), "y": np.zeros(2)}, r"begin with the same number of series, found X \[3, 2\], y \[2\]"),
        ({"X": np.zeros((3, 2)), "y": np.array(1)}, r"found X \[3, 2\], y \[\]"),
        ({"X": np.zeros((3, 2)), "z": np.zeros(3)}, r"columns.label: a.npz: no column y: it has X, z; mend"),
        (
            {"X": np.array([[1], "a"], object), "y": np.zeros(2)},
            r"no readable .npz file .*: save a list of names as text",
        ),
    ],
)
def test_arrays_that_are_no_table_are_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        found(tmp_path, "classification", {"input": "X", "label": "y"})


def test_a_torn_file_of_arrays_is_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((3, 2)), y=np.zeros(3))
    make.write(tmp_path / "a.npz", (tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a.npz: no readable .npz file \(File is not a zip file\): replace it"):
        found(tmp_path, "classification", {"input": "X", "label": "y"})


def test_long_form_needs_an_id(tmp_path):
    make.write(tmp_path / "a.csv", "t,x,what\n0,1,a\n")
    with pytest.raises(UserError, match=r"tiny.yaml: columns.id: missing: with columns.time"):
        found(tmp_path, "classification", {"input": "x", "label": "what", "time": "t"})


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("1.png", "", make.ROLES["classification"], "1.png: it lies in no folder whose name could be its label"),
        ("a.csv", "x,labl\n1,a\n", {"input": ["x"], "label": "label"}, "a.csv: no column label: it has x, labl; mend"),
        ("a.csv", "", {"input": ["x"], "label": "y"}, "a.csv: no column x: it has none; mend columns"),
        (
            "a.csv",
            "1,0.5\n2,3\n",
            {"input": ["x"], "label": "y"},
            "a.csv: no column x: its first line has numbers, 1, 0.5: write names",
        ),
        (
            "a.csv",
            "1;2;0,5\n2;3;4\n",
            {"input": ["x"], "label": "y"},
            "a.csv: no column x: its first line has numbers, 1, 2, 0,5: write",
        ),
        ("a.csv", "x,y\n0.5,a\n", {"input": "x", "label": "y"}, "no such file: '0.5': for numbers, name the columns"),
    ],
)
def test_columns_that_fit_nothing_are_said_with_what_to_do(tmp_path, name, content, columns, message):
    make.write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        found(tmp_path, "classification", columns, "stop")
    assert message in str(caught.value)


def test_what_no_column_asks_for_is_not_opened(tmp_path, monkeypatch):
    make.image_folder(tmp_path / "a", 2)
    monkeypatch.setattr(make.Path, "read_bytes", lambda path: pytest.fail(f"{path} was opened"))
    examples, faults = found(tmp_path, "classification", {"label": "label"})
    assert [example.roles for example in examples] == [{"label": label} for label in ("cat", "cat", "dog", "dog")]
    assert not faults


def test_where_values_may_be_missing_they_are_and_other_words_are_faults(tmp_path):
    make.write(tmp_path / "a.csv", "who,t,x,y,what\na,1,1,,sit\nb,1,3,4,run\na,3,nan,2,sit\nb,2,n/a,4,run\n")
    examples, faults = found(tmp_path, "classification", LONG, missing="carry")
    assert [example.id for example in examples] == ["a"]
    np.testing.assert_array_equal(examples[0].roles["input"], [[1, np.nan], [np.nan, 2]])
    assert [line for _, line in faults] == ["a.csv, line 5: column x: no finite number: 'n/a'"]
