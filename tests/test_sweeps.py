"""Sweeps: which lists make one, what its runs are called, and that a run is the experiment that one would write by hand."""

import json
import tomllib

import pytest
import yaml

from lt25 import cli, sweeps
from lt25.errors import UserError
from lt25.experiment import load_experiment, load_experiments
from lt25.new import new
from lt25.training.job import write_job
from lt25.training.run import open_run
from tests import tiny


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    return tmp_path


def write(project, name="rates", **sections):
    """Write a sweep: the tiny experiment with lists."""
    tiny.write_experiment(project, "classification", "plain")
    path = project / "config" / "experiments" / "plain.yaml"
    written = yaml.safe_load(path.read_text())
    for section, values in sections.items():
        former = written.pop(section, {})
        written[section] = {**former, **values} if isinstance(values, dict) else values
    path.with_stem(name).write_text(yaml.safe_dump(written, sort_keys=False))


def test_a_list_where_one_value_belongs_makes_a_run_of_each_combination(project):
    write(project, optimizer={"lr": [1e-3, 3e-3]}, debug={"seed": [0, 1, 2]})
    runs = load_experiments("rates")
    assert [run.name for run in runs] == [
        f"rates@debug.seed={seed}+optimizer.lr={rate}" for rate in ("0.001", "0.003") for seed in (0, 1, 2)
    ]
    assert {run.processed_dir for run in runs} == {runs[0].processed_dir}
    assert runs[4].job["optimizer"]["lr"] == 3e-3 and runs[4].job["debug"]["seed"] == 1
    assert {run.origins["optimizer.lr"] for run in runs} == {"config/experiments/rates.yaml"}
    assert runs[0].swept == ("optimizer.lr", "debug.seed")
    # By its name, and by what a command takes.
    assert load_experiment(runs[4].name) == runs[4]
    assert runs[4].arguments == "rates --optimizer.lr 0.003 --debug.seed 1"
    assert load_experiment("rates", ["optimizer.lr=3e-3", "debug.seed=1"]) == runs[4]


@pytest.mark.parametrize(
    ("sections", "swept"),
    [
        ({"checkpoint": {"exclude_from_loading": ["optimizer"]}, "compile": {"components": ["loss"]}}, {}),
        ({"evaluation": {"splits": ["test"]}}, {}),
        ({"prepare": {"size": [8, 8]}}, {}),
        ({"model": {"architectures": ["HGRNForSequenceClassification"]}}, {}),
        ({"augment": {"speed": [0.9, 1.1], "shift": [0, 1]}}, {"augment.shift": [0.0, 1.0]}),
        ({"optimizer": {"gate_lr": [None, 1]}}, {"optimizer.gate_lr": [None, 1]}),
        ({"training": {"local_batch_size": [4, 8]}}, {"training.local_batch_size": [4, 8]}),
        ({"model": {"model_type": "lt25_hgrn", "conv_size": [0, 4]}}, {"model.conv_size": [0, 4]}),
        ({"no_such": {"key": [1, 2]}, "optimizer": {"larning_rate": [1]}}, {}),
        (
            {"model": {"model_type": ["lt25_hgrn", "gla"], "hidden_size": [8, 16]}},
            {"model.model_type": ["lt25_hgrn", "gla"], "model.hidden_size": [8, 16]},
        ),
        (
            {"model": {"base": ["config/models/gla_tiny.json", "config/models/lost.json"], "expand_k": [1]}},
            {"model.base": ["config/models/gla_tiny.json", "config/models/lost.json"], "model.expand_k": [1.0]},
        ),
    ],
)
def test_a_key_that_may_have_a_list_is_none_of_a_sweep(project, sections, swept):
    assert (
        sweeps.axes({"task": "classification", "model": {"model_type": "lt25_hgrn"}, **sections}, "x", project) == swept
    )


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"optimizer": {"lr": []}}, "optimizer.lr: found an empty list, expected a value, or several for a sweep"),
        ({"optimizer": {"lr": [1, 1.0]}}, "optimizer.lr: 1 is in the list twice: remove one"),
        ({"optimizer": {"lr": [1, "fast"]}}, 'optimizer.lr: found "fast", expected a number'),
        ({"optimizer": {"lr": [1, [2]]}}, "optimizer.lr: found [2], expected a number"),
        ({"optimizer": {"lr": [1, {"a": 2}]}}, "optimizer.lr: found "),
        ({"dataset": ["digits", "mnist"]}, 'dataset: found ["digits", "mnist"], expected a text'),
        (
            {"model": {"base": ["config/models/a.json", "./config/models/a.json"], "model_type": "lt25_hgrn"}},
            'model.base: "config/models/a.json" is in the list twice: remove one',
        ),
        (
            {"checkpoint": {"interval": [1, 2]}},
            "checkpoint.interval: found [1, 2], but it does not decide where training arrives, so runs that differ in it alone",
        ),
        (
            {"training": {"dataloader": {"num_workers": [0, 1]}}},
            "training.dataloader.num_workers: found [0, 1], but it ",
        ),
        (
            {"prepare": {"size": [[8, 8], [4, 4]]}},
            "prepare.size: found [[8, 8], [4, 4]], but a key whose value is a list by ",
        ),
        ({"evaluation": {"batch_size": [1, 2]}}, "evaluation.batch_size: found [1, 2], expected a whole number"),
        ({"optimizer": [{"lr": 1e-3}, {"lr": 3e-3}]}, "expected keys and values"),
        (
            {"debug": {"seed": list(range(200))}, "training": {"steps": list(range(20, 80))}},
            "make 12,000 runs, more than 10,000",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_one_line(project, sections, complaint):
    write(project, **sections)
    with pytest.raises(UserError) as raised:
        load_experiments("rates")
    assert complaint in str(raised.value) and str(raised.value).startswith("config/experiments/rates.yaml: ")


def test_a_run_is_the_experiment_written_by_hand(project):
    tiny.write_experiment(project, "classification", "hand", optimizer={"lr": 3e-3}, debug={"seed": 1})
    write(project, optimizer={"lr": [1e-3, 3e-3]}, debug={"seed": [0, 1]})
    run, hand = load_experiment("rates@debug.seed=1+optimizer.lr=0.003"), load_experiment("hand")
    assert run.resolved()[0] == hand.resolved()[0]
    assert (run.processed_dir, run.job, run.model) == (hand.processed_dir, hand.job, hand.model)
    tiny.prepare(run)
    jobs = [tomllib.loads(write_job(one).read_text()) for one in (run, hand)]
    assert len({open_run(job, job, 1).fingerprint for job in jobs}) == 1


def test_a_sweep_itself_is_no_experiment_and_says_what_to_name(project, capsys):
    write(project, optimizer={"lr": [1e-3, 3e-3]}, debug={"seed": [0, 1]})
    for command in ("train", "prepare", "export", "evaluate"):
        assert cli.main([command, "rates", "--optimizer.lr", "3e-3"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        "lt25: error: config/experiments/rates.yaml: is a sweep, 4 runs that differ in debug.seed: name one, such as "
        "rates@debug.seed=0+optimizer.lr=0.003; `lt25 config rates` lists them"
    )
    assert cli.main(["config", "rates"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "# config/experiments/rates.yaml: a sweep, 4 runs that differ in optimizer.lr, debug.seed",
        "rates@debug.seed=0+optimizer.lr=0.001",
    ]
    assert cli.main(["config", "rates", "--optimizer.lr", "3e-3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert cli.main(["check", "rates"]) == 0
    assert capsys.readouterr().out.startswith("rates: 4 of 4 runs by optimizer.lr, debug.seed: ok, but for its data, ")
    assert cli.main(["list"]) == 0
    assert "; a sweep of 4 runs, by optimizer.lr, debug.seed" in capsys.readouterr().out


def test_overrides_of_a_run_count_from_what_the_run_says(project):
    write(project, optimizer={"lr": [1e-3, 3e-3]}, training={"steps": [3, 6]})
    same = load_experiment("rates@optimizer.lr=0.001+training.steps=3", ["training.max_norm=1"])
    assert same.name == "rates@optimizer.lr=0.001+training.steps=3"
    # Of an axis, another value than those in the list.
    other = load_experiment("rates", ["training.steps=4", "optimizer.lr=2e-3", "optimizer.beta1=0.5"])
    assert other.name == "rates@optimizer.beta1=0.5+optimizer.lr=0.002+training.steps=4"
    assert (other.origins["optimizer.lr"], other.job_file.name) == ("command line", "job.toml")
    with pytest.raises(UserError, match=r"^command line: optimizer.lr: found \"x\", expected a number"):
        load_experiment("rates", ["training.steps=4", "optimizer.lr=x"])


def test_models_have_readable_names_and_a_shortened_name_is_found_in_the_lists(project):
    (project / "own.json").write_text((project / "config/models/hgrn_classifier_tiny.json").read_text())
    write(
        project,
        model={"base": ["own.json", "config/models/hgrn_classifier_tiny.json"]},
        lr_scheduler={"decay_type": ["linear", "cosine"], "min_lr_factor": [0.25]},
        optimizer={"weight_decay": [0.125], "ema_decay": [0.96875], "lr": [1e-3]},
    )
    names = [run.name for run in load_experiments("rates")]
    assert "+model.base=hgrn_classifier_tiny" in names[-1] and all(len(name) < 150 for name in names)
    assert names[-1][-9] == "-" and len({*names}) == 4
    assert [load_experiment(name).name for name in names] == names


def test_an_experiment_made_from_a_run_has_its_values(project):
    write(project, optimizer={"lr": [1e-3, 3e-3]}, debug={"seed": [0, 1]})
    new("best", "rates@debug.seed=1+optimizer.lr=0.003", "digits")
    best = yaml.safe_load((project / "config" / "experiments" / "best.yaml").read_text())
    assert (best["optimizer"]["lr"], best["debug"]["seed"]) == (0.003, 1)
    assert json.dumps(load_experiment("best").job) == json.dumps(
        load_experiment("rates@debug.seed=1+optimizer.lr=0.003").job
    )


def test_an_experiment_made_from_a_run_of_a_file_in_blocks_has_its_values_beside_their_keys(project):
    write(
        project, optimizer={"lr": [1e-3, 3e-3], "beta1": 0.8}, validation={"freq": 2}, halving={"rungs": [4], "eta": 2}
    )
    new("best", "rates@optimizer.lr=0.003", "digits")
    text = (project / "config" / "experiments" / "best.yaml").read_text()
    assert "  lr: 0.003\n  beta1: 0.8\n" in text and "halving" not in text
    assert load_experiment("best").job == load_experiment("rates@optimizer.lr=0.003").job


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"optimizer": {"lr": 1e-3}}, "halving: chooses among the settings of a sweep, and there is one alone"),
        ({"optimizer": {"lr": 1e-3}, "debug": {"seed": [0, 1]}}, "give another key than debug.seed several values"),
        (
            {"halving": {"rungs": [8, 4]}},
            "halving.rungs: found [8, 4], expected steps in ascending order, each less than",
        ),
        ({"halving": {"rungs": [12]}}, "each less than training.steps, 12"),
        (
            {"halving": {"rungs": [4, 5]}},
            "there is no validation after step 5: set validation.freq to a number of steps",
        ),
        ({"validation": {"freq": 0}}, "there is no validation: set validation.freq"),
        ({"halving": {"rungs": []}}, "halving.rungs: found [], expected a list of at least 1 value"),
        ({"halving": {"eta": 1}}, "halving.eta: found 1, expected at least 2"),
        ({"checkpoint": {"enable": False}}, "training goes on from checkpoints: set checkpoint.enable to true"),
    ],
)
def test_what_is_wrong_with_halving_is_one_line(project, sections, complaint):
    write(
        project,
        **{
            "optimizer": {"lr": [1e-3, 3e-3]},
            "validation": {"freq": 2},
            **sections,
            "halving": {"rungs": [4, 8], "eta": 2, **sections.get("halving", {})},
        },
    )
    with pytest.raises(UserError) as raised:
        load_experiments("rates")
    assert complaint in str(raised.value) and str(raised.value).startswith("config/experiments/rates.yaml: halving")


def test_dvc_and_the_report_of_all_refuse_a_sweep_that_stops_runs_early(project, capsys):
    write(project, optimizer={"lr": [1e-3, 3e-3]}, validation={"freq": 2}, halving={"rungs": [4], "eta": 2})
    (project / "config" / "config.yaml").write_text("experiments: [rates]\n")
    assert cli.main(["dvc"]) == 2
    assert capsys.readouterr().err.startswith(
        "lt25: error: config/config.yaml: experiments: rates stops runs early, and "
    )
    (project / "config" / "config.yaml").write_text("experiments: [rates@optimizer.lr=0.003]\n")
    assert cli.main(["dvc"]) == 0
