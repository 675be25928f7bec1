import os

import pytest

from lt25.data.folders import Folder, files_below, matching, of_split
from lt25.errors import UserError
from tests.data import make


def split(names, split, others=("train", "validation", "test"), patterns=None):
    return of_split(Folder(make.Path("/x"), names), split, others, patterns or {}, "tiny.yaml")


def test_linked_folders_and_files_are_followed(tmp_path):
    make.write(tmp_path / "elsewhere/cat/1.png", "")
    make.write(tmp_path / "single.png", "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/all").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "mine/dog.png").symlink_to(tmp_path / "single.png")
    assert files_below(tmp_path / "mine") == (["all/cat/1.png", "dog.png"], [])


def test_a_loop_of_links_ends_and_what_is_left_out_is_named(tmp_path):
    make.write(tmp_path / "a/1.png", "")
    make.write(tmp_path / ".git/1.png", "")
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "aa-first").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    names, left_out = files_below(tmp_path)
    assert names == ["a/1.png"]
    assert sorted(left_out) == [
        "a/up: a link to a folder that is read already",
        "aa-first: a link to a folder that is read already",
        "gone.png: a link to nothing",
    ]


def test_two_folders_that_link_to_each_other(tmp_path):
    for here, there in (("a", "b"), ("b", "a")):
        make.write(tmp_path / here / f"{here}.txt", "")
        (tmp_path / here / "other").symlink_to(tmp_path / there, target_is_directory=True)
    names, left_out = files_below(tmp_path)
    assert {name.split("/")[-1] for name in names} == {"a.txt", "b.txt"} and len(names) == 2
    assert left_out


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    make.write(tmp_path / "secret/1.png", "")
    read = os.scandir

    def forbidding(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    assert files_below(tmp_path) == ([], ["secret: cannot be read (Permission denied)"])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*", {"a.csv", "b/a.csv", "b/c/a.txt"}),
        ("*.csv", {"a.csv"}),
        ("**/*.csv", {"a.csv", "b/a.csv"}),
        ("b/**", {"b/a.csv", "b/c/a.txt"}),
        ("*/?/a.*", {"b/c/a.txt"}),
        ("[ab].csv", {"a.csv"}),
        ("../*", set()),
    ],
)
def test_globs(pattern, names):
    assert matching(["a.csv", "b/a.csv", "b/c/a.txt"], pattern) == names


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        # A word deeper down is a class's or a photographer's, not a split's.
        (["train/cat/test-1.png", "train/test/2.png", "test/cat/3.png"], "test", ["test/cat/3.png"]),
        (["train/cat/test-1.png", "train/test/2.png", "test/cat/3.png"], "train", 2),
        (["bus/1.png", "train/2.png"], "train", ["train/2.png"]),
        (["Train/cat/1.png", "Test/cat/1.png"], "test", ["Test/cat/1.png"]),
        (["data/train/a.parquet", "data/test/b.parquet"], "train", ["data/train/a.parquet"]),
        (["train.csv", "train/1.png", "test.csv", "test/train-2.png"], "train", ["train.csv", "train/1.png"]),
        (["my-train-00000-of-00001.parquet", "trainer.parquet"], "train", ["my-train-00000-of-00001.parquet"]),
        (["train.clean/a.parquet", "dev.clean/a.parquet"], "dev.clean", ["dev.clean/a.parquet"]),
        (["train/cat/1.png"], "train", ["train/cat/1.png"]),
        (["test/1.png", "test-other/1.png", "train/1.png"], "test-other", ["test-other/1.png"]),
    ],
)
def test_a_split_is_the_word_of_the_top_folder_or_of_the_file(names, wanted, found):
    got = split(names, wanted, ("train", "test", wanted))
    assert (len(got) if isinstance(found, int) else got) == found


def test_of_names_that_hold_each_other_the_longer_counts():
    names = ["test-other.csv", "test.csv", "train.csv"]
    assert split(names, "test", ("train", "test", "test-other")) == ["test.csv"]
    assert split(names, "test", ("train", "test")) == ["test-other.csv", "test.csv"]


def test_a_split_of_no_file_is_one_line():
    with pytest.raises(UserError, match=r"tiny.yaml: splits: no file of /x belongs to the source's split test"):
        split(["cat/train/1.png"], "test")


def test_names_with_accents_are_found_however_they_are_composed():
    folder = Folder(make.Path("/x"), ["Cafe\u0301.wav"])
    assert folder.find("Caf\u00e9.wav") == "Cafe\u0301.wav" and folder.find("Cafe.wav") is None
