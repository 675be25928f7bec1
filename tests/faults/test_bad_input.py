"""A few generated cases of each kind of bad input; `make bad-input` tries ten thousand."""

import contextlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.faults import bad_input

REPOSITORY = Path(__file__).parents[2]


def test_no_input_makes_a_traceback_leaves_the_project_or_starts_a_process(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with contextlib.chdir(tmp_path):
        project = bad_input.Project(tmp_path)
        bad_input.drive(project, 8, seed_of_all=0)
    told = bad_input.table(project.outcomes, 8, 0)
    assert all(project.outcomes[kind, "refused"] for kind in bad_input.KINDS), told


def test_what_a_command_must_not_do_is_seen(tmp_path):
    (tmp_path / "project").mkdir()
    with bad_input.watched((tmp_path / "project").resolve()) as forbidden:
        (tmp_path / "project" / "inside").write_text("")
        assert forbidden == []
        (tmp_path / "outside").write_text("")
        with pytest.raises(RuntimeError, match="no process is to be started"):
            subprocess.run("true", shell=True)
    assert [one.split()[0] for one in forbidden] == ["open", "subprocess.Popen"]


def test_rules_quote_every_word_that_a_file_or_a_name_gives():
    # Numbers that lt25 or Snakemake has counted need no quotes, and an option that a rule itself writes must have none.
    known = {"{resources.gpu}", "{resources.nodes}", "{params.until}"}
    rules = [REPOSITORY / "Snakefile", *sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))]
    for rule in rules:
        for shell in re.findall(r"shell:\n((?: {8}.*\n?)+)", rule.read_text()):
            words = {*re.findall(r"(?<!\{)\{[^{}]+\}(?!\})", shell)} - known
            assert words and all(word.endswith(":q}") for word in words), f"{rule.name}: {shell}"
