"""The command line: quick, and one line for each mistake."""

import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from lt25 import cli
from tests import tiny

LT25 = Path(sys.executable).parent / "lt25"


def test_help_answers_within_a_second_and_imports_neither_torch_nor_transformers():
    subprocess.run([LT25, "--help"], check=True, capture_output=True)
    started = time.perf_counter()
    shown = subprocess.run([LT25, "--help"], check=True, capture_output=True, text=True).stdout
    assert time.perf_counter() - started < 1
    stages = ("download", "prepare", "configure", "train", "export", "evaluate", "report")
    for command in (*stages, "config", "check", "list", "new"):
        assert command in shown
    script = (
        "import sys; sys.argv = ['lt25']; import lt25.cli, lt25.experiment; "
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code in (None, 0)
    assert re.fullmatch(r"lt25 \d+\.\d+\.\d+\n", "".join(capsys.readouterr()))


def test_without_standard_input_there_is_nothing_to_read(tmp_path):
    """As of a service that was started without one."""
    config = {"model_type": "lt25_hgrn", "architectures": ["HGRNForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").touch()
    done = subprocess.run(f"{LT25} generate {tmp_path} <&-", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "lt25: error: lt25 generate: found no prompt, neither --prompt nor on standard input: give one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nothing"], "config/experiments/nothing.yaml: no such experiment file"),
        (["download", "digit"], "config/datasets/digit.yaml: no such dataset file: did you mean digits?"),
        (["download", "tiny"], "dataset file: tiny is an experiment, and its dataset is digits: name that"),
        (["train", "stdlib"], "experiment file: stdlib is a dataset, expected an experiment that trains on it: "),
        (["configure", "tiny"], "run `lt25 download digits && lt25 prepare tiny` first"),
        (["train", "tiny"], "run `lt25 download digits && lt25 prepare tiny` first"),
        (["export", "tiny"], "run `lt25 download digits && lt25 prepare tiny && lt25 train tiny` first"),
        (["export"], "expected an experiment, or --to-dcp"),
        (["evaluate", "tiny"], "&& lt25 train tiny && lt25 export tiny` first"),
        (["train", "tiny", "--optimizer.lr", "0"], "command line: optimizer.lr: found 0, expected more than 0"),
        (["train", "tiny", "--optimizer.lr"], "command line: optimizer.lr: no value: write --optimizer.lr VALUE"),
        (["configure", "tiny", "--optimizer.lr", "1"], "&& lt25 prepare tiny --optimizer.lr 1.0` first"),
        (["export", "tiny", "--optimizer.lr=1"], "&& lt25 train tiny --optimizer.lr 1.0` first"),
        (["download", "digits", "--optimizer.lr=1"], "takes no overrides of an experiment: leave out --optimizer.lr"),
        (["config", "tinny"], "no such experiment file: did you mean tiny?"),
        (["train", "tiny", "--seed", "3"], "command line: --seed: no such option: write --debug.seed VALUE"),
        (["train", "tiny", "--lr=3"], "command line: --lr: no such option: write --optimizer.lr VALUE"),
        (["train", "tiny", "--init_from", "x"], "--init_from: no such option: it makes another experiment"),
        (["train", "tiny", "--task", "x"], "--task: no such option: it makes another experiment"),
        (["train", "tiny", "--dataset", "x"], "--dataset: no such option: it makes another experiment"),
        (["train", "tiny", "--training", "3"], "it is a section: set its keys, --training.KEY VALUE"),
        (["train", "tiny", "--what", "3"], "a key of the experiment is --SECTION.KEY VALUE"),
        (["download", "digits", "--seed", "3"], "lt25 download: --seed: no such option or argument"),
        (["train"], "lt25 train: the following arguments are required: EXPERIMENT: see lt25 train --help"),
        (["trian", "tiny"], "no such command: trian: did you mean train?"),
        (["train", "tiny", "--time-limit", "3"], "expected a number and its unit"),
        (["train", "tiny@optimizer.lr=1", "--training.steps", "0"], "training.steps: found 0"),
        (["prepare", "$(touch F)"], "found '$(touch F)' as the name of an experiment"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.write_experiment(tmp_path, "classification")
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("lt25: error: ")
    assert error.count("\n") == 1


def test_a_refused_command_has_imported_no_torch(tmp_path):
    tiny.make_project(tmp_path)
    script = """if True:
        import sys
        sys.argv = ["lt25"]
        from lt25.cli import main
        for command in ("prepare", "configure", "train", "export", "evaluate", "report", "config", "check"):
            assert main([command, "nosuch"]) == 2, command
        assert main(["new", "mine", "--like", "nosuch", "--dataset", "digits"]) == 2
        assert main(["list"]) == 0
        print({"torch", "transformers", "pandas", "matplotlib"} & set(sys.modules))"""
    shown = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "set()", shown.stderr


def test_config_shows_each_value_and_where_it_comes_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.prepare(tiny.write_experiment(tmp_path, "classification"))
    assert cli.main(["config", "tiny", "--optimizer.lr", "1e-3"]) == 0
    shown = capsys.readouterr().out
    assert "# tiny@optimizer.lr=0.001: results/tiny@optimizer.lr=0.001\n" in shown
    lines = {line.split("#")[0].strip(): line.split("#")[-1].strip() for line in shown.splitlines()}
    assert lines["lr: 0.001"] == "command line"
    assert lines["steps: 12"] == "config/experiments/tiny.yaml"
    assert lines["interval: 4"] == "config/experiments/tiny.yaml"
    assert lines["keep_latest_k: 10"] == "default"
    assert lines["num_labels: 3"] == "the prepared data"
    values = yaml.safe_load(shown)
    assert values["training"]["dataloader"]["prefetch_factor"] is None
    assert (values["prepare"]["layout"], values["prepare"]["size"]) == ("pixels", None)


def test_a_variant_has_a_job_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiment = tiny.tiny(tmp_path, "classification")
    before = (experiment.results_dir / "job.toml").read_text()
    assert cli.main(["configure", "tiny", "--optimizer.lr", "1e-3", "--training.steps=5"]) == 0
    job = tomllib.loads((tmp_path / "results" / "tiny@optimizer.lr=0.001+training.steps=5" / "job.toml").read_text())
    assert (job["optimizer"]["lr"], job["training"]["steps"]) == (1e-3, 5)
    assert job["job"]["dump_folder"] == "results/tiny@optimizer.lr=0.001+training.steps=5"
    assert (experiment.results_dir / "job.toml").read_text() == before


def test_a_job_file_that_says_the_same_keeps_its_date(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiment = tiny.tiny(tmp_path, "classification")
    job = experiment.results_dir / "job.toml"
    before = job.stat().st_mtime_ns
    assert cli.main(["configure", "tiny"]) == 0
    assert job.stat().st_mtime_ns == before
    tiny.write_experiment(tmp_path, "classification", training={"steps": 13})
    assert cli.main(["configure", "tiny"]) == 0
    assert "steps = 13" in job.read_text()


def test_the_data_decides_its_part_of_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.write_experiment(tmp_path, "classification")
    assert cli.main(["check", "tiny", "--model.num_labels=7"]) == 2
    assert "model.num_labels: the data decides it: remove the key" in capsys.readouterr().out
