"""JSON lines and texts under gzip and Zstandard."""

import gzip
import io
import json
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import torch

from lt25.data import chunks, compressed, read
from lt25.data.folders import Folder
from lt25.data.order import Share
from lt25.data.prepared import PreparedSplit
from lt25.data.remote import RemotePath
from lt25.errors import UserError
from tests.data import make
from tests.data.test_language_modeling import CODE, first_windows
from tests.data.test_read import found

KINDS = [".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst"]


def pressed(data: bytes, name: str) -> bytes:
    """Compress bytes as a file's name says, in two members one after the other, as such files may have them."""
    half = len(data) // 2
    return b"".join(
        gzip.compress(part) if name.endswith(".gz") else pa.Codec("zstd").compress(part, asbytes=True)
        for part in (data[:half], data[half:])
    )


def lines(first: int, count: int = 24) -> bytes:
    texts = [
        "".join(CODE.format(number + line) for line in range(number % 7 + 1)) for number in range(first, first + count)
    ]
    rows = [json.dumps({"text": text}) for text in texts]
    rows[5:5] = ["", '{"text": 1', '{"text": ""}']
    return "\n".join(rows).encode()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a function that prepares the same corpus under a suffix, in chunks of a few documents."""
    patch = pytest.MonkeyPatch()
    patch.setattr(chunks, "SIZE", 600)
    made = {}

    def make_it(suffix: str, store: str, streamed: bool = False):
        key = suffix, store, streamed
        if key not in made:
            root = tmp_path_factory.mktemp("compressed")
            for number in range(2):
                data, name = lines(24 * number), f"{number}{suffix}"
                make.write(root / "hub/owner/texts" / name, pressed(data, name) if "z" in suffix else data)
            patch.chdir(root)
            origin = {"hub": "owner/texts", **({"streamed": True} if streamed else {})}
            data = make.dataset("language_modeling", origin)
            made[key] = make.prepared(root, "language_modeling", data, root / "hub", tokenizer="bytes", store=store)
        return made[key]

    yield make_it
    patch.undo()


def same(one, other):
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


@pytest.mark.parametrize("suffix", KINDS)
def test_compressed_lines_are_prepared_as_plain_ones(prepared, suffix):
    plain, packed = prepared(".jsonl", "tokens"), prepared(suffix, "tokens")
    for split in ("train", "validation", "test"):
        one, other = PreparedSplit(plain, split), PreparedSplit(packed, split)
        assert set(one.shards) == set(other.shards)
        assert all(torch.equal(one.shards[name], other.shards[name]) for name in one.shards)
        assert one.table().id.tolist() == other.table().id.tolist()
    assert len(PreparedSplit(packed, "train").shards["chunk_offsets"]) > 8


@pytest.mark.parametrize("suffix", [".json.gz", ".jsonl.zst"])
def test_streamed_compressed_lines_are_read_once_by_all_and_go_on_where_they_were(prepared, suffix):
    plain, streamed = prepared(".jsonl", "tokens"), prepared(suffix, "text", streamed=True)
    whole, _ = first_windows(plain, 60, Share(4))
    assert same(whole, first_windows(streamed, 60, Share(4))[0])
    # Two processes read half of each step, stop, and one goes on.
    ranks = [Share(2, rank=rank, world_size=2) for rank in range(2)]
    rows = [{4 * step + row for step in range(8) for row in share.rows} for share in ranks]
    assert rows[0] | rows[1] == set(range(32)) and not rows[0] & rows[1]
    states = []
    for share, own in zip(ranks, rows, strict=True):
        items, state = first_windows(streamed, share=share, numbers=sorted(own))
        assert same(items, [whole[number] for number in sorted(own)])
        states.append(state)
    state = {**states[0], "lanes": {**states[0]["lanes"], **states[1]["lanes"]}}
    rest = range(32, 60)
    assert same(whole[32:], first_windows(streamed, share=Share(4), numbers=rest, state=state)[0])


def test_a_compressed_file_is_divided_into_few_chunks_that_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 100)
    data = lines(0, 200)
    make.write(tmp_path / "a.jsonl.gz", pressed(data, "a.gz"))
    dataset = make.dataset("language_modeling", {"path": "x"}, splits={"train": "all", "test": "all"})
    parts: list[Any] = [chunk[0].part for chunk in chunks.chunks(dataset, Folder(tmp_path, ["a.jsonl.gz"]), "all")]
    assert len(parts) == chunks._PARTS
    assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])] and parts[-1].end == len(data)
    assert all(part.first == data[: part.begin].count(b"\n") + 1 for part in parts)


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_compressed_texts_are_texts(tmp_path, end):
    text = "añade\n" * 50
    make.write(tmp_path / f"one.txt{end}", pressed(text.encode(), end))
    make.write(tmp_path / f"two.TXT{end}", pressed(text.encode(), end)[:-3])
    columns = {"text": "text", "group": "top"}
    (example,), ((reason, line),) = found(tmp_path, columns=columns)
    assert (example.roles["text"], example.roles["group"]) == (text, "one")
    assert reason == "a file that cannot be read" and line.startswith(f"two.TXT{end}: no readable ")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.zst"])
def test_a_damaged_or_cut_file_is_one_line(tmp_path, name):
    whole = pressed(lines(0), name)
    for content in (whole[:-3], whole[:40], b"version https://git-lfs", gzip.compress(b"x")[:-4] + b"\0\0\0\0"):
        make.write(tmp_path / name, content)
        with pytest.raises(UserError, match=rf"^{name}: no readable (gzip|zstd) file \(.*\): replace it$"):
            found(tmp_path)
        dataset = make.dataset("language_modeling", {"path": "x"})
        with pytest.raises(UserError, match=rf"^{name}: no readable "):
            list(chunks.chunks(dataset, Folder(tmp_path, [name]), "all"))


def test_a_file_that_stays_on_the_hub_is_one_chunk_of_the_same_examples(tmp_path):
    there, data = fsspec.filesystem("memory"), pressed(lines(0), ".gz")
    there.pipe("/texts/deep/a.json.gz", data)
    make.write(tmp_path / "deep/a.json.gz", data)
    dataset = make.dataset("language_modeling", {"path": "x"})
    roots: list[Any] = [tmp_path, RemotePath(there, "/texts")]
    roots = [Folder(root, ["deep/a.json.gz"]) for root in roots]
    here, remote = (
        [str(row) for chunk in chunks.chunks(dataset, root, "all") for row in read.rows_of(dataset, root, *chunk)]
        for root in roots
    )
    assert here == remote and len(here) == 26
    assert [chunk[0].part for chunk in chunks.chunks(dataset, roots[1], "all")] == [None]


def test_an_error_of_the_disk_is_not_taken_for_damage():
    class Lost(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"), compressed.plain(Lost(), "a.jsonl.gz") as file:
        file.read()


def test_only_text_counts_as_compressed():
    suffixes = {
        "a.tar.gz": ".gz",
        "b.csv.zst": ".zst",
        "c.TXT.GZ": ".txt.gz",
        "d.00-of-01.json.gz": ".json.gz",
        "e": "",
    }
    assert {name: compressed.suffix(name) for name in suffixes} == suffixes
    assert [compressed.stem(name) for name in suffixes] == ["a.tar", "b.csv", "c", "d.00-of-01", "e"]
