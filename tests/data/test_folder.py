import os
import subprocess
import sys

import pytest

from lt25.data.folder import whole_folder


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").touch()
    with whole_folder(tmp_path / "target") as folder:
        (folder / "new").touch()
        assert (tmp_path / "target/old").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "new"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").touch()
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "target") as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "old"]


def test_what_a_killed_process_left_is_cleared_and_a_living_ones_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f".target.partial-{pid}").mkdir()
    with whole_folder(tmp_path / "target"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"target", f".target.partial-{os.getppid()}"}
