"""Files and folders that are there whole or not at all."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lt25.errors import UserError
from lt25.files import (
    believe,
    disk_fault,
    load_record,
    read_json,
    whole_file,
    whole_folder,
    write_json,
    write_record,
    write_text,
)


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
    write_text(tmp_path / ("target/old" if whole is whole_folder else "target"), "old")
    before = names(tmp_path)
    with pytest.raises(RuntimeError), whole(tmp_path / "target") as new:
        (new / "new" if new.is_dir() else new).touch()
        raise RuntimeError
    assert names(tmp_path) == before


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


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full: make room there"),
        (errno.EROFS, "the disk is read-only: make it writable"),
        (errno.EACCES, "this user lacks the permission: grant it, or name another place"),
    ],
)
def test_a_disk_that_does_not_take_a_file_is_one_line(tmp_path, number, said):
    with pytest.raises(UserError, match=f"target: {said}"), whole_file(tmp_path / "target"):
        raise OSError(number, os.strerror(number))
    assert not names(tmp_path)
    # Libraries say it in errors of their own, and what is raised in the end may only come from it.
    of_a_library = RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")
    of_a_library.__context__, after = None, ValueError("closing")
    after.__context__ = of_a_library
    assert disk_fault(after, tmp_path) == f"{tmp_path}: {said}"
    assert disk_fault(OSError(number, os.strerror(number), b"a.bin")) == f"a.bin: {said}"
    assert disk_fault(OSError(errno.EIO, "no")) is None


def test_nothing_but_a_file_is_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    write_text(tmp_path / "file", "old")
    for place, said in (
        ("", "is a folder: name a file"),
        ("pipe", "is a device or a pipe: name a file"),
        ("link", "is a device or a pipe: name a file"),
        ("file/new", "a file stands where its folder would be: name another place"),
        ("file/deep/new", "a file stands where its folder would be: name another place"),
        # Where it is asked for by name, never a place that a test would lose if it failed.
        ("/dev/no-such-device", "is a device or a pipe: name a file"),
    ):
        with pytest.raises(UserError, match=f"{place}: {said}"):
            write_text(tmp_path / place, "new")
    assert names(tmp_path) == ["file", "link", "pipe"] and (tmp_path / "file").read_text() == "old"


def test_json_that_is_missing_or_torn_is_one_line(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1]})
    assert read_json(tmp_path / "a.json", "") == {"ü": [1]}
    with pytest.raises(UserError, match=r"b.json: not there: run `lt25 prepare` first"):
        read_json(tmp_path / "b.json", "run `lt25 prepare` first")
    for content in (b'{"a": ', b"\xff"):
        (tmp_path / "b.json").write_bytes(content)
        with pytest.raises(UserError, match=r"b.json: not JSON \(.*\): make this file again"):
            read_json(tmp_path / "b.json", "")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def empty(path):
    path.write_bytes(b"")


def replace_digit(path):
    """Leave a record of the same form and size."""
    path.write_text(path.read_text().replace("7", "8", 1))


def nest(path):
    path.write_text("[" * 100_000)


def replace(path):
    """Put a whole record of another name in the place."""
    write_record(path.with_name("other.json"), {"count": 7})
    path.with_name("other.json").replace(path)


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("tensors", flip, "tensors has changed since it was written"),
        ("tensors", truncate, "tensors has 97 bytes instead of 100"),
        ("tensors", empty, "tensors has 0 bytes instead of 100"),
        ("tensors", Path.unlink, "tensors is missing"),
        ("facts.json", replace_digit, "facts.json: has changed since it was written"),
        ("facts.json", replace, "facts.json: has changed since it was written"),
        ("facts.json", truncate, "facts.json: damaged"),
        ("facts.json", empty, "facts.json: damaged"),
        ("facts.json", nest, "facts.json: damaged"),
    ],
)
def test_what_is_not_as_it_was_written_is_one_line_with_the_command_that_makes_it_anew(tmp_path, file, harm, said):
    (tmp_path / "tensors").write_bytes(bytes(range(100)))
    written = write_record(tmp_path / "facts.json", {"count": 7, "of": {1: "ü"}}, [tmp_path / "tensors"])
    assert believe(tmp_path / "facts.json", "lt25 prepare x") == written == load_record(tmp_path / "facts.json")
    harm(tmp_path / file)
    with pytest.raises(UserError, match=f"{said}.*: run `lt25 prepare x`$") as caught:
        believe(tmp_path / "facts.json", "lt25 prepare x")
    assert "\n" not in str(caught.value)
    # Snakemake, which asks for the record, makes it anew.
    assert not (tmp_path / "facts.json").exists() and (tmp_path / "facts.json.damaged").exists()
