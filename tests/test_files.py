"""Files and folders that are there whole or not at all."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lt25.errors import UserError
from lt25.files import read_json, whole_file, whole_folder, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").touch()
    with whole_folder(tmp_path / "target") as folder:
        (folder / "new").touch()
        assert (tmp_path / "target/old").exists()
    assert names(tmp_path) == ["new", "target"]


def test_a_file_and_a_link_take_their_place_when_they_are_whole(tmp_path):
    write_text(tmp_path / "deep/file", "old")
    with whole_file(tmp_path / "deep/file") as file:
        file.write_text("new")
        assert (tmp_path / "deep/file").read_text() == "old"
    for target in ("deep", "nowhere"):
        with whole_file(tmp_path / "link") as link:
            link.symlink_to(target)
        assert str((tmp_path / "link").readlink()) == target
    assert names(tmp_path) == ["deep", "file", "link"]
    assert (tmp_path / "deep/file").read_text() == "new"


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_failure_leaves_what_was_there(tmp_path, whole):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").touch()
    with pytest.raises(RuntimeError), whole(tmp_path / "target") as new:
        (new / "new" if new.is_dir() else new).touch()
        raise RuntimeError
    assert names(tmp_path) == ["old", "target"]


def test_everything_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda opened: flushed.append(Path(f"/proc/self/fd/{opened}").readlink().name))
    with whole_folder(tmp_path / "target") as folder:
        (folder / "inner").mkdir()
        (folder / "inner/file").touch()
    assert set(flushed[:2]) == {"inner", "file"}
    assert flushed[2].startswith(".target.partial-")
    assert flushed[3:] == [tmp_path.name]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_what_a_killed_process_left_is_cleared_and_a_living_ones_or_another_machines_is_not(tmp_path, whole):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    left = [
        f".a[1].partial-{host}-{pid}" for host, pid in [(here, dead.pid), (here, os.getppid()), (f"{here}-2", dead.pid)]
    ]
    for name in left:
        (tmp_path / name).mkdir()
    with whole(tmp_path / "a[1]") as new:
        if not new.is_dir():
            new.touch()
    assert set(names(tmp_path)) == {"a[1]", *left[1:]}


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match="target: the disk is full: make room there"), whole_file(tmp_path / "target"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not names(tmp_path)


def test_json_that_is_missing_or_torn_is_one_line(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1]})
    assert read_json(tmp_path / "a.json", "") == {"ü": [1]}
    with pytest.raises(UserError, match=r"b.json: not there: run `lt25 prepare` first"):
        read_json(tmp_path / "b.json", "run `lt25 prepare` first")
    for content in (b'{"a": ', b"\xff"):
        (tmp_path / "b.json").write_bytes(content)
        with pytest.raises(UserError, match=r"b.json: not JSON \(.*\): make this file again"):
            read_json(tmp_path / "b.json", "")
