"""`dvc exp run -S` to its end: what it runs again, and that its numbers and curves stand beside those of before."""

import json
import re

import pytest
import yaml

from tests.workflow import chain

FILE = "config/experiments/digits.yaml"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_experiment_of_dvc_runs_what_its_setting_decides_and_is_compared_with_before(tmp_path):
    """Slow because it builds a chain twice, by Snakemake and by DVC: two minutes."""
    root = chain.project(tmp_path)
    (root / "config" / "config.yaml").write_text(yaml.safe_dump({"experiments": ["digits"]}))
    chain.repository(root)
    for command in (("snakemake",), ("dvc", "commit", "--force", "--quiet")):
        done = chain.run(root, *command)
        assert done.returncode == 0, done.stdout
    chain.commit(root, "results")
    before = json.loads((root / "results/digits/train.json").read_text())
    (stats,) = root.glob("data/processed/digits/*/stats.json")
    prepared = stats.read_bytes()

    done = chain.run(root, "dvc", "exp", "run", "-S", f"{FILE}:optimizer.lr=1e-3")
    assert done.returncode == 0, done.stdout
    ran = re.findall(r"Running stage '([\w-]+)'", done.stdout)
    assert ran == ["prepare-digits", "train-digits", "export-digits", "evaluate-digits", "report"], done.stdout
    after = json.loads((root / "results/digits/train.json").read_text())
    assert (before["identity"]["optimizer"]["lr"], after["identity"]["optimizer"]["lr"]) == (0.01, 0.001)
    assert before["fingerprint"] != after["fingerprint"] and stats.read_bytes() == prepared
    assert chain.NOTHING in chain.snakemake(root, "--dry-run").stdout

    compared = json.loads(chain.run(root, "dvc", "metrics", "diff", "--all", "--json").stdout)
    numbers = compared["diff"]["results/digits/evaluation/headline.json"] if "diff" in compared else compared
    text = json.dumps(numbers)
    assert '"old"' in text and '"new"' in text, compared
    curves = chain.run(root, "dvc", "plots", "diff", "--json").stdout
    assert "HEAD" in curves and "workspace" in curves and "results/digits/evaluation/curve.csv" in curves, curves
