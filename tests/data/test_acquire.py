import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

from lt25.config.sections import DATASET
from lt25.data import acquire as acquiring
from lt25.data.acquire import acquire, changes, damaged, verify
from lt25.data.hub import listing
from lt25.errors import UserError
from lt25.files import write_sealed
from tests.data import make

HUB = {"hub": "owner/set", "files": {"train": "data/train-*.txt", "test": "data/test.txt"}}


@pytest.fixture
def data():
    return make.dataset("language_modeling", HUB, splits={"train": "train", "test": "test"})


@pytest.fixture
def mirror(tmp_path):
    for name in ("train-0.txt", "train-1.txt", "test.txt"):
        make.write(tmp_path / "mirror/owner/set/data" / name, f"content of {name}\n")
    make.write(tmp_path / "mirror/owner/set/README.md", "not asked for")
    return tmp_path / "mirror"


def manifest(raw):
    return json.loads((raw / "SOURCE.json").read_text())


def test_a_mirror_is_copied_and_every_file_hashed(tmp_path, data, mirror):
    acquire(data, tmp_path / "raw", mirror)
    known = manifest(tmp_path / "raw")
    assert set(known["files"]) == {"data/train-0.txt", "data/train-1.txt", "data/test.txt"}
    content = b"content of test.txt\n"
    assert known["files"]["data/test.txt"] == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert known["origin"] == HUB and known["licence"] == "none" and known["revision"] == "mirror"
    assert str(tmp_path) not in json.dumps(known)


@pytest.mark.parametrize("damage", ["missing", "shortened", "altered"])
def test_a_damaged_file_is_noticed_and_fetched_again(tmp_path, data, mirror, damage, capsys):
    raw = tmp_path / "raw"
    acquire(data, raw, mirror)
    bad = raw / "data/train-1.txt"
    if damage == "missing":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes()[:5] if damage == "shortened" else b"x" + bad.read_bytes()[1:])
    assert damaged(raw, manifest(raw)) == ["data/train-1.txt"]
    with pytest.raises(UserError, match=r"data/train-1.txt missing, damaged or changed: run `lt25 download tiny`"):
        verify(data, raw)
    untouched = (raw / "data/test.txt").stat().st_mtime_ns
    acquire(data, raw, mirror)
    assert "data/train-1.txt missing or damaged, fetching again" in capsys.readouterr().err
    assert bad.read_text() == "content of train-1.txt\n"
    assert (raw / "data/test.txt").stat().st_mtime_ns == untouched
    verify(data, raw)


def test_a_whole_dataset_is_left_alone(tmp_path, data, mirror, capsys):
    acquire(data, tmp_path / "raw", mirror)
    before = (tmp_path / "raw/SOURCE.json").stat().st_mtime_ns
    shutil.rmtree(mirror)
    acquire(data, tmp_path / "raw", mirror)
    assert (tmp_path / "raw/SOURCE.json").stat().st_mtime_ns == before
    assert "all 3 files are there and whole" in capsys.readouterr().err


def test_an_interrupted_copy_is_no_dataset_and_is_completed(tmp_path, data, mirror, monkeypatch):
    copied, copyfile = [], shutil.copyfile

    def interrupted(source, target):
        if copied:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        copied.append(copyfile(source, target))

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        acquire(data, tmp_path / "raw", mirror)
    monkeypatch.undo()
    assert not (tmp_path / "raw/SOURCE.json").exists()
    with pytest.raises(UserError, match="the dataset tiny is not there: run `lt25 download tiny`"):
        verify(data, tmp_path / "raw")
    acquire(data, tmp_path / "raw", mirror)
    assert not damaged(tmp_path / "raw", manifest(tmp_path / "raw"))


def test_a_damaged_manifest_counts_as_none(tmp_path, data, mirror):
    raw = tmp_path / "raw"
    source = raw / "SOURCE.json"
    acquire(data, raw, mirror)
    whole = source.read_text()
    for damaged_text in (whole[:20], whole.replace('"licence": "none"', '"licence": "MIT"'), "[]", "[" * 100_000):
        source.write_text(damaged_text)
        assert changes(data, raw) == ["changed: SOURCE.json"], "the chain fetches it anew by itself"
        with pytest.raises(UserError, match=r"SOURCE.json: (damaged|has changed).*: run `lt25 download tiny`$"):
            verify(data, raw)
        source.write_text(damaged_text)
        acquire(data, raw, mirror)
        assert source.read_text() == whole


def test_another_origin_replaces_what_is_there(tmp_path, data, mirror):
    acquire(data, tmp_path / "raw", mirror)
    fewer = make.dataset("language_modeling", {**HUB, "files": {"train": "data/train-0.txt"}})
    acquire(fewer, tmp_path / "raw", mirror)
    assert set(manifest(tmp_path / "raw")["files"]) == {"data/train-0.txt"}
    assert not (tmp_path / "raw/data/test.txt").exists()


def test_a_mirror_without_a_wanted_file_is_one_line(tmp_path, data, mirror):
    (mirror / "owner/set/data/test.txt").unlink()
    with pytest.raises(UserError, match=r"origin.files: no file of the dataset matches data/test.txt"):
        acquire(data, tmp_path / "raw", mirror)
    assert not (tmp_path / "raw/SOURCE.json").exists()


def test_too_little_disk_is_said_before_anything_is_copied(tmp_path, data, mirror, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(UserError, match=r"needs 0.0 GB, .* free: make room there"):
        acquire(data, tmp_path / "raw", mirror)
    assert not any((tmp_path / "raw").iterdir())


class Hub:
    """Stands for the Hub: one dataset at one commit."""

    def __init__(self, monkeypatch):
        self.asked = []
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def repo_info(self, hub, repo_type, revision, files_metadata):
        self.asked.append(revision)
        names = ("data/train-0.txt", "data/test.txt", "README.md")
        return SimpleNamespace(sha="c0ffee" * 6, siblings=[SimpleNamespace(rfilename=name, size=9) for name in names])

    def download(self, hub, repo_type, revision, allow_patterns, local_dir):
        self.patterns = allow_patterns
        for name in ("data/train-0.txt", "data/test.txt"):
            if allow_patterns == ["data/test.txt"] and name != "data/test.txt":
                continue
            make.write(local_dir / name, f"{name} at {revision}")
        make.write(local_dir / ".cache/huggingface/notes", "")


def test_the_hub_is_asked_for_its_newest_commit_once(tmp_path, data, monkeypatch):
    hub, raw = Hub(monkeypatch), tmp_path / "raw"
    acquire(data, raw)
    assert hub.asked == [None] and hub.patterns == ["data/train-*.txt", "data/test.txt"]
    assert manifest(raw)["revision"] == "c0ffee" * 6 and not (raw / ".cache").exists()
    (raw / "data/test.txt").write_text("torn")
    acquire(data, raw)
    assert hub.asked == [None, "c0ffee" * 6] and hub.patterns == ["data/test.txt"]
    verify(data, raw)


def test_two_stars_match_files_in_no_folder_too_on_the_hub_as_in_a_mirror(tmp_path, data, monkeypatch, mirror):
    origin = {"hub": "owner/set", "files": {"train": "**/train-*.txt", "test": "**/READ*"}}
    *_, copied = listing("tiny", origin, mirror)
    Hub(monkeypatch)
    *_, found = listing("tiny", origin, None)
    assert set(found) == {"data/train-0.txt", "README.md"} <= set(copied)


def test_without_network_one_line_says_what_to_do(tmp_path, data, monkeypatch):
    import httpx

    def unreachable(self, *args, **options):
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    with pytest.raises(UserError) as caught:
        acquire(data, tmp_path / "raw", tmp_path / "elsewhere")
    message = str(caught.value)
    assert "\n" not in message and "owner/set is not in the mirror" in message
    assert "connect to the network" in message and "LT25_HUB_MIRROR" in message and "hub_mirror" in message


def test_a_dataset_that_the_hub_does_not_have(tmp_path, data, monkeypatch):
    import httpx

    def missing(self, *args, **options):
        response = httpx.Response(404, request=httpx.Request("GET", "http://hub.invalid"))
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", missing)
    with pytest.raises(UserError, match="owner/set: the Hub has no such dataset: mend origin"):
        acquire(data, tmp_path / "raw")


def test_a_folder_is_hashed_where_it_lies(tmp_path, capsys):
    folder = make.image_folder(tmp_path / "mine", count=2)
    data, raw = make.dataset("classification", {"path": "mine"}), tmp_path / "data/raw/tiny"
    acquire(data, raw)
    assert [path.name for path in raw.iterdir()] == ["SOURCE.json"]
    assert set(manifest(raw)["files"]) == {"cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"}
    make.write(folder / "cat/1.png", make.random_png(np.random.default_rng(9)))
    with pytest.raises(UserError, match=r"changed: cat/1.png since last time: run `lt25 download tiny`"):
        verify(data, raw)
    acquire(data, raw)
    assert "changed: cat/1.png since last time" in capsys.readouterr().err
    verify(data, raw)


def test_new_changed_and_removed_files_of_a_folder_are_noticed_and_only_those_are_read(tmp_path, monkeypatch):
    folder = make.image_folder(tmp_path / "mine", count=3)
    data, raw = make.dataset("classification", {"path": "mine"}), tmp_path / "data/raw/tiny"
    assert changes(data, raw) == []
    acquire(data, raw)
    before, date = manifest(raw)["files"], (raw / "SOURCE.json").stat().st_mtime_ns
    hashed, sha256 = [], acquiring.files.sha256
    monkeypatch.setattr(acquiring.files, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    assert changes(data, raw) == [] and hashed == []

    os.utime(folder / "cat/0.png", ns=(1, 1))
    assert changes(data, raw) == [] and hashed == ["0.png"]
    assert changes(data, raw) == [] and hashed == ["0.png"], "the date is noted"
    assert (raw / "SOURCE.json").stat().st_mtime_ns == date

    make.write(folder / "cat/9.png", make.random_png(np.random.default_rng(9)))
    make.write(folder / "dog/1.png", make.random_png(np.random.default_rng(9), (9, 9)))
    (folder / "dog/2.png").unlink()
    found = changes(data, raw)
    assert found == ["removed: dog/2.png", "new: cat/9.png", "changed: dog/1.png"]
    with pytest.raises(UserError, match=r"removed: dog/2.png, new: cat/9.png, changed: dog/1.png since last time"):
        verify(data, raw)
    hashed.clear()
    acquire(data, raw)
    assert sorted(hashed) == ["1.png", "9.png"]
    after = manifest(raw)["files"]
    assert after.keys() == {*before, "cat/9.png"} - {"dog/2.png"}
    assert after["cat/1.png"] == before["cat/1.png"]
    assert changes(data, raw) == []


def test_a_folder_in_data_raw_survives_every_change_of_its_origin(tmp_path, data, mirror):
    raw = tmp_path / "data/raw/tiny"
    folder = make.image_folder(raw, count=1)
    for spelling in ("data/raw/tiny", "./data/raw/tiny", str(raw), "data/raw/../raw/tiny"):
        acquire(make.dataset("classification", {"path": spelling}), raw)
        assert set(manifest(raw)["files"]) == {"cat/0.png", "dog/0.png"}
    acquire(data, raw, mirror)
    assert (folder / "cat/0.png").is_file()
    # What was fetched is the user's own now, because they name it as theirs.
    acquire(make.dataset("language_modeling", {"path": "data/raw/tiny/data"}), raw)
    assert (raw / "data/test.txt").read_text() == "content of test.txt\n"
    assert set(manifest(raw)["files"]) == {"test.txt", "train-0.txt", "train-1.txt"}


def test_only_listed_files_are_removed(tmp_path, data, mirror, monkeypatch):
    raw = tmp_path / "raw"
    acquire(data, raw, mirror)
    make.write(raw / "data/notes.md", "my own")
    make.write(tmp_path / "elsewhere.txt", "not to be touched")
    known = manifest(raw)
    known["files"]["../elsewhere.txt"] = {"sha256": "", "bytes": 0}
    write_sealed(raw / "SOURCE.json", known)
    fewer = make.dataset("language_modeling", {**HUB, "files": {"train": "data/train-0.txt"}})
    acquire(fewer, raw, mirror)
    assert sorted(path.name for path in (raw / "data").iterdir()) == ["notes.md", "train-0.txt"]
    assert (tmp_path / "elsewhere.txt").is_file()

    from lt25.data.builders import stdlib

    monkeypatch.setattr(stdlib, "build", lambda folder, options: str(make.write(folder / "a.py", "x = 1")))
    acquire(make.dataset("language_modeling", {"builder": "stdlib"}), raw)
    assert sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.*")) == [
        "SOURCE.json",
        "a.py",
        "data/notes.md",
    ]


def test_the_folder_of_a_dataset_may_be_a_link(tmp_path, data, mirror):
    (tmp_path / "disk").mkdir()
    raw = tmp_path / "raw"
    raw.symlink_to(tmp_path / "disk")
    acquire(data, raw, mirror)
    verify(data, raw)
    acquire(make.dataset("language_modeling", {**HUB, "files": {"train": "data/train-0.txt"}}), raw, mirror)
    assert raw.is_symlink()
    assert [path.name for path in (tmp_path / "disk/data").iterdir()] == ["train-0.txt"]
    shutil.rmtree(tmp_path / "disk")
    with pytest.raises(UserError, match="no folder, nor a link to one"):
        acquire(data, raw, mirror)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"origin.path: no such folder"):
        acquire(make.dataset("classification", {"path": "nowhere"}), tmp_path / "data/raw/tiny")


def test_a_builder_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from lt25.data.builders import stdlib

    def fails(folder, options):
        make.write(folder / "half.py", "x = 1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stdlib, "build", fails)
    with pytest.raises(UserError, match="the disk is full: make room there"):
        acquire(make.dataset("language_modeling", {"builder": "stdlib"}), tmp_path / "raw")
    assert not list(tmp_path.iterdir())


def test_every_builder_that_a_dataset_file_may_name_is_known():
    from importlib.util import find_spec

    assert set(DATASET["origin"].keys["builder"].bounds["enum"]) == set(acquiring.BUILDERS)
    assert all(find_spec(f"lt25.data.builders.{module}") for module in acquiring.BUILDERS.values())
