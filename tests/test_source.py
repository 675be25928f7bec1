"""The commit that a result is of."""

import subprocess

from lt25.source import revision


def test_a_result_is_of_a_commit_and_of_changes_if_there_are_any(tmp_path):
    assert revision(tmp_path) is None
    for words in (
        ["init", "--quiet"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--allow-empty", "-m", "one"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    clean = revision(tmp_path)
    assert clean is not None and len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "new.yaml").write_text("")
    assert revision(tmp_path) == {**clean, "dirty": True}
