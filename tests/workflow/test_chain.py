"""The whole chain on tiny data: by DVC, by Snakemake, a second time, and by hand."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.workflow import chain
from tests.workflow.chain import NOTHING
from tests.workflow.forked import commands


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A project that `dvc repro` has built, in a git repository, as DVC wants it."""
    root = chain.project(tmp_path_factory.mktemp("built"))
    chain.write_experiment(
        root, "Digits_v1.5-again", "classification", debug={"seed": 2**63 - 1}, validation={"freq": 3}
    )
    (root / "config" / "config.yaml").write_text(
        yaml.safe_dump({"experiments": [*chain.EXPERIMENTS, "Digits_v1.5-again"]})
    )
    chain.plant(chain.repository(root))
    done = chain.run(root, "dvc", "repro", **chain.SECRETS)
    assert done.returncode == 0, done.stdout
    # What is printed is searched with all other files.
    (root / "results" / "logs" / "dvc.log").write_text(done.stdout)
    return root


@pytest.fixture
def installed(tmp_path_factory):
    """A project whose experiments of some names the installed commands build: elsewhere commands are forked from a process."""

    def build(names: list[str]) -> Path:
        root = chain.project(tmp_path_factory.mktemp("installed"))
        (root / "config" / "config.yaml").write_text(yaml.safe_dump({"experiments": names}))
        process = start(root)
        assert process.wait(timeout=600) == 0, (root / "said").read_text()
        return root

    return build


def test_every_stage_has_left_what_its_contract_says(built):
    check_contract(built, list(chain.EXPERIMENTS))


ONE, *OTHERS = sorted(chain.EXPERIMENTS, key=lambda name: name != "spoken-digits")


@pytest.mark.parametrize("names", [[ONE], pytest.param(OTHERS, marks=pytest.mark.slow)], ids=" ".join)
def test_the_installed_commands_build_a_chain(installed, names):
    """Slow are the other tasks: each has seven commands that import everything, which takes most of the time."""
    check_contract(installed(names), names)


def check_contract(root: Path, names: list[str]) -> None:
    for name in names:
        task = chain.EXPERIMENTS[name]
        results = root / "results" / name
        marker = json.loads((results / "train.json").read_text())
        assert (marker["task"], marker["steps"]) == (task, 6)
        for file in (
            "job.toml",
            "checkpoints/step-6/manifest.json",
            "hf/config.json",
            "hf/model.safetensors",
            "hf/README.md",
            "evaluation/metrics.json",
            "evaluation/predictions.parquet",
        ):
            assert (results / file).is_file(), file
        metrics = json.loads((results / "evaluation" / "metrics.json").read_text())
        assert metrics["step"] == 6
        assert set(metrics["splits"]) == {"validation", "test"}
    page = (root / "results" / "report.html").read_text()
    for name in names:
        assert name in page
    assert 'src="http' not in page
    assert "@import" not in page
    assert list((root / "results" / "logs").rglob("*.log"))
    assert list((root / "results" / "benchmarks").rglob("*.tsv"))


def test_secrets_of_the_environment_and_of_dvc_stay_where_they_are(built):
    """Logs, job files, checkpoints, cards, exports, evaluations, the report, DVC's files and its cache are searched."""
    assert chain.SECRETS["AWS_SECRET_ACCESS_KEY"] in (built / ".dvc" / "config.local").read_text()
    assert chain.holders(built) == []
    searched = {path.name for path in built.rglob("*") if path.is_file()}
    assert {"job.toml", "README.md", "export.json", "dvc.lock", "dvc.log", "report.html", "run.json"} <= searched
    tracked = chain.run(built, "git", "ls-files", ".dvc").stdout
    assert "config" in tracked and "config.local" not in tracked


def test_after_dvc_repro_neither_dvc_nor_snakemake_has_anything_to_do(built):
    again = chain.run(built, "dvc", "repro")
    assert "up to date" in again.stdout, again.stdout
    dry = chain.snakemake(built, "--dry-run")
    assert NOTHING in dry.stdout, dry.stdout
    shown = chain.run(built, "dvc", "metrics", "show", "--json").stdout
    numbers = json.loads(shown)[""]["data"]["results/Digits_v1.5-again/evaluation/headline.json"]["data"]
    metrics = json.loads((built / "results/Digits_v1.5-again/evaluation/metrics.json").read_text())
    assert numbers["test"] == {"accuracy_percent": pytest.approx(100 * metrics["splits"]["test"]["accuracy"])}
    drawn = chain.run(built, "dvc", "plots", "show", "--json").stdout
    assert "results/Digits_v1.5-again/evaluation/curve.csv" in drawn
    steps = (built / "results/Digits_v1.5-again/evaluation/curve.csv").read_text().splitlines()
    assert steps[0] == "step,loss,lr,validation_loss,validation_accuracy"
    assert steps[-1].startswith("6,") and steps[-1][-1].isdigit()
    tracked = (built / "dvc.lock").read_text()
    for path in ("data/processed/digits", "results/digits/hf", "data/processed/stdlib"):
        assert f"path: {path}\n" in tracked


def rules_to_run(printed: str) -> set[str]:
    """The rules that a dry run names."""
    return {*re.findall(r"^(\w+) +\d+$", printed, re.MULTILINE)} - {"total", "all"}


def test_what_is_pushed_is_up_to_date_in_a_fresh_clone_where_an_evaluations_setting_evaluates_alone(built, tmp_path):
    refused = chain.run(built, "lt25", "push")
    assert refused.returncode == 2 and "no remote specified" in refused.stdout, refused.stdout
    chain.run(built, "dvc", "remote", "add", "--default", "folder", str(tmp_path / "remote"))
    clone = chain.hand_on(built, tmp_path / "clone", **chain.SECRETS)
    assert chain.holders(tmp_path) == []
    assert not list(clone.glob("results/*/runs"))

    chain.write_experiment(clone, "digits", "classification", evaluation={"batch_size": 7})
    planned = chain.snakemake(clone, "--dry-run")
    assert rules_to_run(planned.stdout) == {"evaluate_model", "write_report"}, planned.stdout
    trained = (clone / "results" / "digits" / "train.json").stat().st_mtime_ns
    curve = (clone / "results" / "digits" / "evaluation" / "curve.csv").read_text()
    assert len(curve.splitlines()) > 1
    done = chain.run(clone, "dvc", "repro", "evaluate-digits")
    assert done.returncode == 0, done.stdout
    assert "Stage 'train-digits' didn't change, skipping" in done.stdout, done.stdout
    assert (clone / "results" / "digits" / "train.json").stat().st_mtime_ns == trained
    assert (clone / "results" / "digits" / "evaluation" / "curve.csv").read_text() == curve
    refused = chain.run(clone, "lt25", "push")
    assert refused.returncode == 2 and "not up to date (write_report to run)" in refused.stdout, refused.stdout
    differing = json.loads(chain.run(clone, "dvc", "metrics", "diff", "--json", "--all").stdout)
    assert "results/digits/evaluation/headline.json" in differing
    drawn = chain.run(clone, "dvc", "plots", "diff", "HEAD", "--json")
    assert drawn.returncode == 0 and "results/digits/evaluation/curve.csv" in drawn.stdout
    written = chain.run(clone, "lt25", "report", "digits")
    assert written.returncode == 0, written.stdout
    assert "loss over the training steps" in (clone / "results" / "report.html").read_text()


def test_a_models_provenance_leads_to_its_files_whose_hashes_can_be_computed_again(built):
    told = chain.run(built, "lt25", "provenance", "results/digits/hf").stdout
    first = chain.run(built, "git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    source = json.loads((built / "data" / "raw" / "digits" / "SOURCE.json").read_text())
    for line in (
        "model: results/digits/hf/export.json",
        f"    code: commit {first}",
        "prepared data: data/processed/digits/series-",
        "source: data/raw/digits/SOURCE.json",
        f"    acquired: {source['acquired']}",
    ):
        assert line in told, told
    assert f"commit {first}" in (built / "results" / "digits" / "hf" / "README.md").read_text()
    image = next((built / "images").rglob("*.png"))
    content = image.read_bytes()
    for written, status in ((content + b"0", 1), (content, 0)):
        image.write_bytes(written)
        verified = chain.run(built, "lt25", "verify", "digits")
        assert verified.returncode == status, verified.stdout
        assert verified.stdout.count("ok ") == 4 - status
        assert ("another SHA-256" in verified.stdout) == bool(status)


def test_an_intermediate_checkpoint_is_exported_and_evaluated_on_request(built):
    target = "results/digits/evaluation/step-2/metrics.json"
    done = chain.snakemake(built, target)
    assert done.returncode == 0, done.stdout
    assert json.loads((built / target).read_text())["step"] == 2
    assert (built / "results" / "digits" / "hf" / "step-2" / "config.json").is_file()
    assert "up to date" in chain.run(built, "dvc", "repro").stdout
    refused = chain.snakemake(built, "results/digits/evaluation/step-3/metrics.json")
    assert refused.returncode != 0
    assert "no checkpoint of step 3 is kept: there are 2, 4, 6" in refused.stdout


def test_the_steps_of_a_learning_curve_are_evaluated_by_one_command_as_one_by_one(built):
    evaluation = built / "results" / "spoken-digits" / "evaluation"
    splits = {}
    for target in ("step-2/metrics.json", "steps.json"):
        done = chain.snakemake(built, f"results/spoken-digits/evaluation/{target}")
        assert done.returncode == 0, done.stdout
        splits[target] = json.loads((evaluation / "step-2" / "metrics.json").read_text())["splits"]
    assert json.loads((evaluation / "step-4" / "metrics.json").read_text())["step"] == 4
    assert list(splits["steps.json"]) == ["validation"]
    for one in splits.values():
        one["validation"].pop("real_time_factor", None)
    assert splits["steps.json"] == splits["step-2/metrics.json"]
    again = chain.snakemake(built, "--dry-run", "results/spoken-digits/evaluation/step-4/metrics.json")
    assert NOTHING in again.stdout, again.stdout


def test_snakemakes_own_report_can_be_made(built):
    done = chain.snakemake(built, "--report", "snakemake-report.zip")
    assert done.returncode == 0, done.stdout
    assert (built / "snakemake-report.zip").stat().st_size > 10_000


def test_the_exports_work_in_transformers_after_import_lt25(built):
    # The models' cards say how they are loaded; that runs as it is printed.
    script = """
import re, shutil, numpy
from pathlib import Path
shutil.copy("audio/0.wav", "speech.wav")
series = numpy.zeros((4, 5), dtype=numpy.uint8)
for name in ("digits", "spoken-digits", "stdlib-lm"):
    (code,) = re.findall("```python\\n(.*?)```", Path(f"results/{name}/hf/README.md").read_text(), re.DOTALL)
    print("card", name)
    exec(code)
print("seen", *logits.shape)
"""
    done = chain.run(built, "python", "-c", script)
    # Bars of transformers stand between the lines.
    lines = [
        line for line in done.stdout.splitlines() if line.startswith(("card ", "cat", "dog", "def main(", "seen "))
    ]
    assert lines[0] == "card digits" and lines[1] in ("cat", "dog"), done.stdout
    assert lines[2:4] == ["card spoken-digits", "card stdlib-lm"] and lines[4].startswith("def main("), done.stdout
    assert lines[-1] == "seen 1 2", done.stdout


def test_torchrun_works_by_hand_with_two_processes(built):
    job = ["--job.config_file", "results/digits/job.toml", "--training.steps", "3"]
    done = chain.run(built, "torchrun", "--standalone", "--nproc_per_node", "2", "-m", "lt25.training", *job)
    assert done.returncode == 0, done.stdout
    assert "overridden by hand" in done.stdout
    markers = [json.loads(file.read_text()) for file in (built / "results" / "digits" / "runs").glob("*/train.json")]
    assert sorted((marker["world_size"], marker["steps"]) for marker in markers) == [(1, 6), (2, 3)]


@pytest.fixture
def rerun(built):
    """A function that changes `digits` and returns which of its rules run again; afterwards all is as it was."""

    def of(change) -> set[str]:
        change()
        dry = chain.snakemake(built, "--dry-run", "results/digits/evaluation/metrics.json")
        assert dry.returncode == 0, dry.stdout
        return set(re.findall(r"^(\w+) +\d+$", dry.stdout, re.MULTILINE)) - {"total"}

    yield of
    chain.write_experiment(built, "digits", "classification")


ALL = {"configure_job", "train_model", "export_model", "evaluate_model"}


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"optimizer": {"lr": 2e-2}}, ALL),
        ({"training": {"steps": 7}}, ALL),
        ({"metrics": {"log_freq": 3}}, {"configure_job"}),
        ({"checkpoint": {"average": 2}}, {"configure_job", "export_model", "evaluate_model"}),
        ({"evaluation": {"batch_size": 3}}, {"evaluate_model"}),
        ({"metrics": {"log_freq": 3}, "evaluation": {"batch_size": 3}}, {"configure_job", "evaluate_model"}),
        ({}, set()),
    ],
)
def test_only_what_is_decided_differently_runs_again(built, rerun, changes, rules):
    def change():
        chain.write_experiment(built, "digits", "classification", **changes)
        for file in ("experiments", "datasets"):
            path = built / "config" / file / "digits.yaml"
            path.write_text(f"# A comment.\n{path.read_text()}")

    assert rerun(change) == rules


def test_who_prepares_the_data_that_experiments_share_is_no_reason_to_prepare_again(built, rerun):
    # The first of the names has prepared it, and takes other data now.
    file = built / "config" / "experiments" / "Digits_v1.5-again.yaml"
    content = file.read_text()
    rows = yaml.safe_dump(yaml.safe_load(content) | {"prepare": {"layout": "rows"}})
    try:
        assert rerun(lambda: file.write_text(rows)) == set()
    finally:
        file.write_text(content)


def test_a_change_of_the_users_folder_is_noticed_by_the_chain(built, rerun):
    one, new = sorted((built / "images" / "cat").iterdir())[0], built / "images" / "cat" / "new.png"
    content, dates = one.read_bytes(), one.stat()
    assert rerun(lambda: os.utime(one)) == set()
    everything = {"download_dataset", "prepare_data", *ALL}
    try:
        assert rerun(lambda: new.write_bytes(content)) == everything
        assert rerun(lambda: new.rename(one.with_name("other.png"))) == everything
        assert rerun(one.with_name("other.png").unlink) == set()
        assert rerun(lambda: one.write_bytes(content[:-1])) == everything
        assert rerun(one.unlink) == everything
    finally:
        one.write_bytes(content)
        os.utime(one, ns=(dates.st_atime_ns, dates.st_mtime_ns))


def test_the_default_profile_is_in_force_whoever_calls(built, tmp_path):
    for folder, file in ((built, []), (tmp_path, ["--snakefile", str(built / "Snakefile")])):
        asked = ["--directory", str(built), "--dry-run", "--verbose"]
        done = chain.run(folder, "snakemake", *file, *asked)
        assert "profiles/default for setting default command line arguments" in done.stdout, done.stdout
    values = yaml.safe_load((built / "workflow/profiles/default/config.yaml").read_text())
    assert values == {"cores": "all", "rerun-incomplete": True, "show-failed-logs": True}


def test_a_cluster_is_asked_for_the_gpus_of_the_experiment(tmp_path):
    root = chain.project(tmp_path)
    chain.write_experiment(root, "digits", "classification", parallelism={"data_parallel_shard_degree": 4})
    asked = ("--executor", "slurm", "--jobs", "2", "--dry-run", "--printshellcmds", "results/digits/train.json")
    done = chain.run(root, "snakemake", *asked)
    assert done.returncode == 0, done.stdout
    assert "gpus=$((4 / 1)); NGPU=${gpus#0} NNODE=1 lt25 train digits" in done.stdout
    done = chain.run(root, "snakemake", *asked, NGPU="abc")
    assert "lt25: error: NGPU: found 'abc', expected a whole number of at least 1" in done.stdout
    assert "Traceback" not in done.stdout


def start(root: Path, *arguments: str, programs: Path | None = None) -> subprocess.Popen:
    """Start snakemake in a group of its own, the installed one or another; its output goes to `said` in the project."""
    path = os.pathsep.join([*([str(programs)] if programs else []), os.environ["PATH"]])
    with (root / "said").open("w") as said:
        return subprocess.Popen(
            [str((programs or Path(sys.executable).parent) / "snakemake"), *arguments],
            cwd=root,
            env=tiny.environment(PATH=path),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(seen, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not seen():
        assert process.poll() is None, "snakemake ended too early"
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


STEPS = 200


@pytest.mark.parametrize("killed", ["snakemake", "all"])
def test_after_a_kill_the_same_command_goes_on(tmp_path, killed):
    root = chain.project(tmp_path)
    chain.write_experiment(root, "digits", "classification", training={"steps": STEPS}, checkpoint={"interval": 20})
    target, results = "results/digits/train.json", root / "results" / "digits"
    assert chain.snakemake(root, "results/digits/job.toml").returncode == 0
    process = start(root, target)
    wait_for((results / "checkpoints" / "step-20").is_dir, process)
    if killed == "snakemake":
        trainer = json.loads(next(results.glob("runs/*/lock.json")).read_text())["pid"]
        os.kill(trainer, signal.SIGSTOP)
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (root / target).exists()
    assert list((root / ".snakemake" / "locks").iterdir()), "snakemake has left its locks"

    again = start(root, target, programs=commands())
    if killed == "snakemake":
        try:
            wait_for(lambda: "another trainer is writing here" in (root / "said").read_text(), again)
            live = chain.snakemake(root, target)
            assert "cannot be locked" in live.stdout, "the locks of a snakemake that is alive are left alone"
        finally:
            os.kill(trainer, signal.SIGCONT)
    assert again.wait(timeout=240) == 0, (root / "said").read_text()
    said = (root / "said").read_text()
    assert (f"already at step {STEPS}: nothing to train" in said) == (killed == "snakemake")
    assert f"step 1/{STEPS}" not in said
    assert json.loads((root / target).read_text())["steps"] == STEPS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"training": {"stepz": 3}},
            "config/experiments/digits.yaml: training.stepz: unknown key: did you mean steps?",
        ),
        ({"dataset": "digitz"}, "config/datasets/digitz.yaml: no such dataset file: did you mean digits?"),
        ({"prepare": {"layouts": "rows"}}, "prepare.layouts"),
    ],
)
def test_a_wrong_experiment_is_one_message_before_anything_runs(tmp_path, change, message):
    root = chain.project(tmp_path)
    chain.write_experiment(root, "digits", "classification", **change)
    done = chain.snakemake(root, "results/digits/job.toml")
    assert done.returncode != 0
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_an_invalid_experiment_is_in_the_way_of_nothing_else(tmp_path):
    root = chain.project(tmp_path)
    (root / "config" / "config.yaml").write_text("experiments: [digits]\n")
    (root / "config" / "experiments" / "spoken-digits.yaml").write_text("task: [")
    said = "config/experiments/spoken-digits.yaml:1: not valid YAML"
    other = chain.snakemake(root, "--dry-run", "results/report.html")
    assert other.returncode == 0, other.stdout
    assert f"lt25: warning: left out: {said}" in other.stdout
    assert "training digits" in other.stdout
    named = chain.snakemake(root, "--dry-run", "results/spoken-digits/job.toml")
    assert named.returncode != 0
    assert f"lt25: error: {said}" in named.stdout
    (root / "config" / "config.yaml").write_text("experiments: [digits, spoken-digits]\n")
    shown = chain.snakemake(root, "--dry-run")
    assert shown.returncode != 0
    assert f"lt25: error: {said}" in shown.stdout
    assert "Traceback" not in other.stdout + named.stdout + shown.stdout


def test_a_name_that_a_shell_or_a_folder_would_take_amiss_is_one_line(tmp_path):
    root = chain.project(tmp_path)
    (root / "config" / "config.yaml").write_text("experiments: [digits]\n")
    odd = ("my leaves", "$(touch F)", "a;touch F", "-n", "blätter")
    for name in odd:
        (root / "config" / "experiments" / f"{name}.yaml").write_bytes(
            (root / "config" / "experiments" / "digits.yaml").read_bytes()
        )
    others = chain.snakemake(root, "--dry-run", "results/digits/train.json")
    assert others.returncode == 0, others.stdout
    for name in odd:
        assert re.search(rf"lt25: warning: left out: .*found {re.escape(repr(name))} as the name of ", others.stdout), (
            name
        )
    asked = chain.snakemake(root, "results/my leaves/train.json")
    assert asked.returncode != 0
    assert len(re.findall(r"lt25: error: .*my leaves.*", asked.stdout)) == 1
    assert "Traceback" not in others.stdout + asked.stdout
    assert not list(root.rglob("F"))


def test_what_writes_no_checkpoints_is_trained_and_refused_where_it_would_be_exported(tmp_path):
    root = chain.project(tmp_path)
    chain.write_experiment(root, "digits", "classification", checkpoint={"enable": False})
    (root / "config" / "config.yaml").write_text("experiments: [digits]\n")
    said = "lt25: error: config/experiments/digits.yaml: checkpoint.enable: false, so there is nothing to export"
    shown = chain.snakemake(root)
    (root / "config" / "config.yaml").write_text("experiments: [stdlib-lm]\n")
    asked = chain.snakemake(root, "results/digits/evaluation/metrics.json")
    for refused in (shown, asked):
        assert refused.returncode != 0
        assert refused.stdout.count("lt25: error: ") == 1 and said in refused.stdout
        assert "Traceback" not in refused.stdout
    assert not (root / "results").exists(), "before anything runs"
    trained = chain.snakemake(root, "--dry-run", "results/digits/train.json")
    assert trained.returncode == 0, trained.stdout


def test_a_broken_audio_file_stops_the_chain_and_is_named(tmp_path):
    root = chain.project(tmp_path)
    chain.write_experiment(root, "spoken-digits", "speech_recognition", prepare={"faulty": "stop"})
    broken = sorted((root / "audio").glob("*.wav"))[3]
    broken.write_bytes(b"no audio")
    done = chain.snakemake(root, "results/spoken-digits/job.toml")
    assert done.returncode != 0
    assert broken.name in done.stdout
    assert "Logfile results/logs/prepare/spoken-digits" in done.stdout, "the profile's show-failed-logs"
    assert "Traceback" not in done.stdout


def test_a_sweep_is_planned_whole_and_on_a_cluster_run_by_run(tmp_path):
    root = chain.project(tmp_path)
    chain.write_experiment(root, "rates", "classification", optimizer={"lr": [0.01, 0.02]}, debug={"seed": [0, 1]})
    planned = chain.snakemake(root, "--dry-run", "results/rates/report.html").stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    assert (counts["prepare_data"], counts["train_model"], counts["write_sweep"]) == ("1", "4", "1"), planned
    # As a job of a cluster is told its target: what is planned is that run's alone.
    target = "train_model:experiment=rates@debug.seed=1+optimizer.lr=0.02"
    planned = chain.snakemake(root, "--dry-run", "--target-jobs", target).stdout
    assert {*re.findall(r"^train_model +(\d+)$", planned, re.MULTILINE)} == {"1"}, planned
    assert "training rates@debug.seed=1+optimizer.lr=0.02; " in planned
    unknown = chain.snakemake(root, "--dry-run", "results/rates@optimizer.lr=0.01/train.json")
    several = "name one of 2, such as rates@debug.seed=0+optimizer.lr=0.01"
    assert unknown.stdout.splitlines()[-1].endswith(several), unknown.stdout


@pytest.mark.slow
def test_five_hundred_runs_are_planned_in_twenty_seconds_of_a_core(tmp_path):
    """Slow because it takes about ten seconds of a core, a third of them to print what is planned."""
    root = chain.project(tmp_path)
    rates, seeds = [number / 1000 for number in range(1, 51)], list(range(10))
    chain.write_experiment(root, "rates", "classification", optimizer={"lr": rates}, debug={"seed": seeds})
    planning = start(root, "--dry-run", "results/rates/report.html")
    _, status, used = os.wait4(planning.pid, 0)
    said = (root / "said").read_text()
    assert status == 0 and re.search(r"^train_model +500$", said, re.MULTILINE), said[-2000:]
    print(f"{used.ru_utime + used.ru_stime:.1f} s")
    assert used.ru_utime + used.ru_stime < 20
