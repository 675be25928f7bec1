"""Experiment files: what is filled in, and what each mistake is answered with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lt25 import experiment as config
from lt25.errors import UserError
from lt25.tasks import TASKS

REPOSITORY = Path(__file__).parents[1]
GOOD = {
    "task": "classification",
    "dataset": "digits",
    "model": {"model_type": "lt25_hgrn", "hidden_size": 8},
    "training": {"steps": 10, "local_batch_size": 4},
    "optimizer": {"lr": 1e-3},
    "lr_scheduler": {"warmup_steps": 2},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose only experiment is what the test makes of `GOOD`."""
    (tmp_path / "config" / "experiments").mkdir(parents=True)
    for name in ("config/datasets", "config/models"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project, change=None, text=None, name="tiny"):
    experiment = json.loads(json.dumps(GOOD))
    for key, value in (change or {}).items():
        *path, last = key.split(".")
        place = experiment
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    (project / "config" / "experiments" / f"{name}.yaml").write_text(text or yaml.safe_dump(experiment))


def test_defaults_are_filled_in_and_overridden_key_by_key(project):
    write(project, {"checkpoint.interval": 5})
    experiment = config.load_experiment("tiny")
    checkpoint = experiment.job["checkpoint"]
    assert (checkpoint["interval"], checkpoint["enable"], checkpoint["keep_latest_k"]) == (5, True, 10)
    assert (checkpoint["folder"], checkpoint["last_save_model_only"]) == ("checkpoints", False)
    assert experiment.job["training"]["steps"] == 10
    assert experiment.job["training"]["seq_len"] == 2048
    assert experiment.prepare["layout"] == "pixels" and experiment.prepare["faulty"] == "exclude"
    assert experiment.evaluation == {"splits": ["validation", "test"], "batch_size": 64, "trust_remote_code": False}
    assert (experiment.model["hidden_size"], experiment.model["num_hidden_layers"]) == (8, 24)
    assert experiment.results_dir == project / "results" / "tiny"
    assert experiment.kept_steps == [5, 10]


def test_a_learning_rate_in_scientific_notation_is_a_number(project):
    write(project, text=yaml.safe_dump(GOOD).replace("lr: 0.001", "lr: 1e-3"))
    assert config.load_experiment("tiny").job["optimizer"]["lr"] == 1e-3


def test_kept_steps_follow_interval_last_step_and_keep_latest_k(project):
    write(project, {"checkpoint.interval": 3, "checkpoint.keep_latest_k": 3})
    assert config.load_experiment("tiny").kept_steps == [6, 9, 10]


def test_preparations_differ_exactly_when_the_prepared_data_does(project, monkeypatch):
    write(project)
    first = config.load_experiment("tiny").preparation
    for same in ({"optimizer.lr": 2e-3}, {"prepare": {}}, {"prepare": {"layout": "pixels"}}, {"prepare.size": None}):
        write(project, same)
        assert config.load_experiment("tiny").preparation == first
    write(project, {"prepare": {"layout": "rows"}})
    assert config.load_experiment("tiny").preparation != first
    write(project)
    task = TASKS["classification"]
    monkeypatch.setitem(TASKS, task.name, replace(task, preparation_version=task.preparation_version + 1))
    assert config.load_experiment("tiny").preparation != first
    default = replace(task.prepare["layout"], default="rows")
    monkeypatch.setitem(TASKS, task.name, replace(task, prepare={**task.prepare, "layout": default}))
    assert config.load_experiment("tiny").preparation != first


def test_each_value_knows_where_it_comes_from(project):
    write(project, {"model": {"base": "config/models/hgrn_classifier_tiny.json", "dropout": 0.2}})
    origins = config.load_experiment("tiny", ["optimizer.lr=1"]).origins
    assert origins["training.steps"] == origins["model.dropout"] == "config/experiments/tiny.yaml"
    assert origins["model.hidden_size"] == "config/models/hgrn_classifier_tiny.json"
    assert origins["model.norm_eps"] == origins["checkpoint.interval"] == origins["prepare.layout"] == "default"
    assert origins["optimizer.lr"] == "command line"
    assert origins["checkpoint.folder"] == "lt25"


def test_overrides_make_a_variant_with_results_of_its_own(project):
    write(project)
    plain = config.load_experiment("tiny")
    variant = config.load_experiment("tiny", ["training.steps=20", "optimizer.lr=1e-2"])
    assert variant.name == "tiny@optimizer.lr=0.01+training.steps=20"
    assert variant.results_dir == project / "results" / variant.name
    assert variant.arguments == "tiny --training.steps 20 --optimizer.lr 0.01"
    assert (variant.job["training"]["steps"], variant.job["optimizer"]["lr"]) == (20, 0.01)
    assert variant.processed_dir == plain.processed_dir
    assert config.load_experiment("tiny", ["prepare.layout=rows"]).processed_dir != plain.processed_dir


def test_a_key_of_the_model_that_changes_nothing_makes_no_variant(project):
    write(project)
    assert config.load_experiment("tiny", ["model.dtype=bfloat16"]).results_dir == project / "results" / "tiny"


def test_an_override_by_what_the_file_says_is_no_variant(project):
    write(project)
    same = config.load_experiment("tiny", ["optimizer.lr=1e-3", "checkpoint.interval=500", "training.max_norm=1"])
    assert (same.name, same.overrides) == ("tiny", {})


def test_options_of_the_evaluation_leave_the_model_where_it_is(project):
    write(project)
    plain = config.load_experiment("tiny")
    assert plain.evaluation_dir == project / "results" / "tiny" / "evaluation"
    variant = config.load_experiment("tiny", ["evaluation.batch_size=2"])
    assert variant.results_dir == plain.results_dir
    assert variant.evaluation_dir == project / "results" / "tiny@evaluation.batch_size=2" / "evaluation"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "command line: optimizer.lrr: unknown key: did you mean lr?"),
        ("optimizer.lr=high", 'command line: optimizer.lr: found "high", expected a number'),
        ("optimiser.lr=1", "command line: optimiser.lr: no section optimiser: did you mean optimizer.lr?"),
        ("training.seed=1", "command line: training.seed: unknown key: did you mean debug.seed?"),
        (
            "experimental.custom_import=x",
            "command line: experimental.custom_import: no section experimental: did you mean plugins in config/config.yaml?",
        ),
        ("task.x=1", "command line: task.x: no section task"),
        (
            "training.steps=1",
            "with what the command line sets: lr_scheduler.warmup_steps: 2 is more than training.steps, 1",
        ),
        ("model.dropout=1.5", "command line: model.dropout: found 1.5, expected less than 1"),
    ],
)
def test_overrides_are_checked_like_the_file(project, override, message):
    write(project)
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_start_must_be_there_of_the_same_task_and_no_circle(project):
    write(project, name="first")
    write(project, {"init_from": "first"})
    assert config.load_experiment("tiny").init_from == "first"
    write(project, {"init_from": "tiny"}, name="first")
    with pytest.raises(UserError, match="init_from: a circle: tiny starts from first starts from tiny"):
        config.load_experiment("tiny")
    write(project, {"init_from": "tiny"})
    with pytest.raises(UserError, match="init_from: a circle: tiny starts from tiny"):
        config.load_experiment("tiny")
    write(project, {"task": "language_modeling", "dataset": "stdlib"}, name="first")
    write(project, {"init_from": "first"})
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    said = (
        "config/experiments/tiny.yaml: init_from: first has the task language_modeling, this experiment classification"
    )
    assert said in str(caught.value)
    write(project, {"init_from": "frist"})
    with pytest.raises(UserError, match=r"frist.yaml: no such experiment file: did you mean first"):
        config.load_experiment("tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.stepz": 3}, "training.stepz: unknown key: did you mean steps? `lt25 config` shows all "),
        ({"training.steps": "ten"}, 'training.steps: found "ten", expected a whole number'),
        ({"training.steps": 0}, "training.steps: found 0, expected at least 1"),
        (
            {"training.local_batch_size": 4, "training.global_batch_size": 6},
            "training.global_batch_size: 6 is no multiple",
        ),
        ({"task": "vision"}, 'task: found "vision", allowed: classification, speech_recognition, language_modeling'),
        ({"lr_scheduler.decay_type": "step"}, 'lr_scheduler.decay_type: found "step", allowed: linear, sqrt, cosine'),
        ({"lr_scheduler.warmup_steps": 11}, "lr_scheduler.warmup_steps: 11 is more than training.steps, 10"),
        ({"checkpoint.keep_latest_k": 1}, "checkpoint.keep_latest_k: found 1, which is not allowed"),
        ({"optimizer.lr": 0}, "optimizer.lr: found 0, expected more than 0"),
        ({"model": {"hidden_size": 8}}, "model.model_type: missing"),
        (
            {"model": {"base": "config/models/none.json"}},
            "model.base: no such file: config/models/none.json: expected a path",
        ),
        (
            {"model": {"base": "hgrn_lm_tine"}},
            "hgrn_lm_tine: expected a path, of the form config/models/delta_net_1b.json: did you mean hgrn_lm_tiny?",
        ),
        (
            {"model": {"base": "config/models"}},
            "model.base: config/models is a folder: name a JSON file in it (delta_net_1b.json, ",
        ),
        ({"dataset": "digit"}, "config/datasets/digit.yaml: no such dataset file: did you mean digits?"),
        ({"extra": 1}, "extra: unknown key"),
        ({"extra": {"more": 1}}, "extra: unknown key"),
        ({"lr": 1e-3}, "lr: unknown key: did you mean optimizer.lr? `lt25 config` shows all "),
        ({"steps": 3}, "steps: unknown key: `lt25 config` shows all "),
        ({"optimiser": {"lr": 1e-3}}, "optimiser: unknown key: did you mean optimizer?"),
        ({"model.custom_import": "x"}, "custom_import: unknown key: did you mean plugins in config/config.yaml?"),
        ({"float8": {"recipe_name": "rowwise"}}, "tiny.yaml: float8: unknown key: did you mean training.float8?"),
        (
            {"experimental": {"pipeline_parallel_degree": 2}},
            "experimental.pipeline_parallel_degree: unknown key: did you mean parallelism.pipeline_parallel_degree?",
        ),
        ({"training.skip_nan_inf": True}, "training.skip_nan_inf: not for an experiment: a step whose gradients"),
        ({"model.droput": 0.5}, "model.droput: unknown key: did you mean dropout? `lt25 config` shows all "),
        ({"model.dtype": "float99"}, 'model.dtype: found "float99", expected: bfloat16, float16, float32 or float64'),
        ({"model.pad_token_id": 3}, "model.pad_token_id: the data decides it: remove the key"),
        (
            {"model": {"base": "config/models/hgrn_ctc_tiny.json", "model_type": "lt25_hgrm"}},
            "model.model_type: found lt25_hgrm, no such model type: did you mean lt25_hgrn?",
        ),
        ({"lr_scheduler": {}}, "lr_scheduler.warmup_steps: 200, the default, is more than training.steps, 10"),
        (
            {
                "task": "language_modeling",
                "dataset": "stdlib",
                "model": {"base": "config/models/hgrn_ctc_tiny.json"},
            },
            "model.base: made for HGRNForCTC, which does speech_recognition, and the task is language_modeling",
        ),
        ({"model.dropout": "high"}, 'model.dropout: found "high", expected a number'),
        ({"model.dropout": 1.5}, "model.dropout: found 1.5, expected less than 1"),
        ({"model.hidden_size": -3}, "model.hidden_size: found -3, expected at least 1"),
        (
            {"model.model_type": "lt25_hgm"},
            "model.model_type: found lt25_hgm, no such model type: did you mean lt25_hgrn?",
        ),
        ({"model.model_type": "glaa"}, "model.model_type: found glaa, no such model type: did you mean gla?"),
        (
            {"model": {"base": "config/models/hgrn_ctc_tiny.json"}},
            "model.base: made for HGRNForCTC, which does speech_recognition, and the task is classification",
        ),
        ({"model.base": 3}, "model.base: found 3, expected a text"),
        ({"evaluation": {"batchsize": 3}}, "evaluation.batchsize: unknown key: did you mean batch_size? There are "),
        ({"evaluation.batch_size": 0}, "evaluation.batch_size: found 0, expected at least 1"),
        ({"evaluation.splits": []}, "evaluation.splits: found [], expected a list of at least 1 value"),
        ({"evaluation.max_bytes": 3}, "evaluation.max_bytes: unknown key"),
        (
            {"prepare.layuot": "rows"},
            "prepare.layuot: unknown key: did you mean layout? There are faulty, grey, layout, ",
        ),
        ({"prepare.alphabet": "ab"}, "prepare.alphabet: unknown key"),
        ({"prepare.layout": "columns"}, 'prepare.layout: found "columns", allowed: pixels, rows, series'),
        ({"prepare.size": [8]}, "prepare.size: found [8], expected a list of 2 values"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr: found nan, expected a finite number"),
        ({"checkpoint.folder": "here"}, "checkpoint.folder: not for an experiment: it is `checkpoints`"),
        (
            {"dataset": "stdlib"},
            "task: found classification, but the dataset stdlib is for language_modeling: change one",
        ),
        ({"validation.patience": 2}, "validation.patience: needs validation: set validation.freq"),
        ({"checkpoint.keep": "best"}, "checkpoint.keep: needs validation: set validation.freq"),
        ({"validation": {"freq": 11, "patience": 1}}, "validation.freq: 11 is more than training.steps, 10"),
        (
            {"validation.steps": 0},
            "validation.steps: found 0, which is not allowed: as many examples as so many steps take",
        ),
        (
            {"parallelism.data_parallel_replicate_degree": 2, "parallelism.context_parallel_degree": 2},
            "parallelism: found DDP and CP together, not tested: use data_parallel_replicate_degree 1",
        ),
        ({"training": "much"}, 'training: found "much", expected keys and values'),
        (
            {"training.seq_len": 64},
            "training.seq_len: is about the window of a language model, and classification reads",
        ),
        ({"model.expand_ratio": 0.01}, "model.expand_ratio: found 0.01, which leaves none of 8 recurrent channels"),
        ({"model.architectures": ["Foo"]}, "model.architectures: made for Foo, which does no task of these"),
        (
            {"model.tie_word_embeddings": True},
            "model.tie_word_embeddings: found True, which has no effect on classification, only on language_modeling",
        ),
        ({"model.tied_dropout": True}, "model.tied_dropout: has no effect without model.dropout: give that too"),
        ({"model.conv_size": 9}, "model.conv_size: has no effect without model.use_short_conv: give that too"),
        (
            {"model.hidden_ratio": 2, "model.intermediate_size": 16},
            "model.hidden_ratio: has no effect beside model.intermediate_size, 16: set that to null, or remove the key",
        ),
        (
            {"activation_checkpoint.selective_ac_option": "x"},
            'selective_ac_option: found "x", expected: a whole number in quotes, or `op`',
        ),
        ({"activation_checkpoint.determinism_check": "x"}, 'determinism_check: found "x", allowed: default, none'),
        (
            {"compile.enable": True, "parallelism.tensor_parallel_degree": 2},
            "compile.enable: found true, but not with tensor parallelism: use false",
        ),
        (
            {"optimizer.name": "Muon", "parallelism.tensor_parallel_degree": 2},
            "optimizer.name: found Muon, but not with tensor parallelism",
        ),
        (
            {"compile.enable": True, "parallelism.context_parallel_degree": 2},
            "compile.enable: found true, but not with context parallelism: use false",
        ),
        ({"activation_checkpoint.mode": "memory_budget"}, "mode: memory_budget is a compiler's: set compile.enable"),
        (
            {"training.z_loss": 1e-4},
            "training.z_loss: found 0.0001, but the loss of lt25_hgrn in classification has none",
        ),
        ({"training.label_smoothing": 1}, "training.label_smoothing: found 1, expected less than 1"),
        (
            {"training.label_smoothing": 0.1, "parallelism.pipeline_parallel_degree": 2},
            "training.label_smoothing: found 0.1, but a pipeline computes the plain loss: use 0",
        ),
        (
            {"training.intermediate_ctc": 0.3},
            "training.intermediate_ctc: found 0.3, but lt25_hgrn in classification has no logits of a middle layer: use 0",
        ),
        (
            {"training.batch_seconds": 60},
            "training.batch_seconds: found 60.0, but it is for utterances, and the task is classification: remove the key",
        ),
        ({"training.batch_seconds": "all"}, 'training.batch_seconds: found "all", expected: seconds, or auto'),
        ({"training.batch_seconds": 0}, "training.batch_seconds: found 0, expected more than 0"),
        (
            {"checkpoint": {"average": 3, "keep": "best"}, "validation.freq": 1},
            "checkpoint.average: found 3, but checkpoint.keep best exports one checkpoint: remove one of the two keys",
        ),
        (
            {"checkpoint": {"average": 3, "keep_latest_k": 2, "interval": 1}},
            "checkpoint.average: found 3, but checkpoint.keep_latest_k keeps 2: raise it, or set it to 0",
        ),
        (
            {"checkpoint.average": 3, "training.steps": 900, "checkpoint.interval": 500},
            "checkpoint.average: found 3, but 900 steps have 2 checkpoints, one each 500: lower checkpoint.interval",
        ),
        ({"training.float8": "fast"}, 'training.float8: found "fast", allowed: tensorwise, rowwise'),
        ({"optimizer.name": "SGD"}, 'optimizer.name: found "SGD", allowed: Adam, AdamW, Muon'),
        (
            {"optimizer.ema_decay": 0.9, "training.dtype": "bfloat16"},
            "optimizer.ema_decay: found 0.9, but a mean in bfloat16 stands still: set training.dtype to float32",
        ),
        (
            {"profiling": {"enable_profiling": True, "profile_freq": 3}},
            "profiling.profile_freq: found 3, less than profiler_warmup and profiler_active together: raise it",
        ),
        ({"parallelism.pipeline_parallel_schedule": "x"}, 'pipeline_parallel_schedule: found "x", allowed: 1F1B, '),
        ({"checkpoint.exclude_from_loading": ["x"]}, 'exclude_from_loading[0]: found "x", allowed: optimizer, '),
        ({"training.dataloader.prefetch_factor": 2}, "training.dataloader.prefetch_factor: needs processes that read"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_key_found_and_allowed(project, change, message):
    write(project, change)
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert text.startswith("config/")


@pytest.mark.parametrize("key", ["seq_len", "varlen", "context_len"])
def test_recall_has_no_windows(project, key):
    model = {"base": "config/models/hgrn_lm_tiny.json"}
    text = {"task": "recall", "dataset": "mqar", "model": model, "training": {"steps": 10, key: 8}}
    text |= {"lr_scheduler": {"warmup_steps": 1}}
    text["training"] |= {"varlen": True} if key == "varlen" else {}
    write(project, text=yaml.safe_dump(text))
    with pytest.raises(
        UserError, match=rf"training.{key}: is about the window of a language model, and recall reads whole"
    ):
        config.load_experiment("tiny")


def test_a_key_that_takes_numbers_does_not_advise_quotes(project):
    write(project, {"training.batch_seconds": True})
    with pytest.raises(UserError, match=r"batch_seconds: found true, expected a number or a text or null$"):
        config.load_experiment("tiny")


def test_all_mistakes_of_a_file_and_of_its_dataset_are_said_together(project):
    write_dataset(project, colums={}, titel="x")
    write(project, {"dataset": "leaves", "training.stepz": 3, "optimizer.lr": "high", "model.droput": 1})
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    said = "\n".join(caught.value.lines)
    for key in (
        "tiny.yaml: training.stepz",
        "optimizer.lr",
        "model.droput",
        "leaves.yaml: colums",
        "leaves.yaml: titel",
    ):
        assert f"{key}: " in said
    assert len(caught.value.lines) == 5
    # A value of another type is one mistake, although it is none of the allowed ones either.
    write(project, {"optimizer.name": {"is": "AdamW"}})
    with pytest.raises(UserError) as twice:
        config.load_experiment("tiny")
    said = [line for line in twice.value.lines if "optimizer" in line]
    assert said == ['config/experiments/tiny.yaml: optimizer.name: found {"is": "AdamW"}, expected a text']
    assert str(caught.value) == f"{caught.value.lines[0]} (and 4 more, which `lt25 check` lists)"
    # What only shows when a file's keys are right is said together too.
    write_dataset(project, tasks=["language_modeling"], columns={"input": "image"})
    write(project, {"dataset": "leaves", "lr_scheduler.warmup_steps": 20})
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    assert len(caught.value.lines) == 2


def test_optimizer_and_schedule_have_defaults(project):
    experiment = {name: value for name, value in GOOD.items() if name not in ("optimizer", "lr_scheduler")}
    write(project, text=yaml.safe_dump({**experiment, "training": {"steps": 1000}}))
    job = config.load_experiment("tiny").job
    assert (job["optimizer"]["name"], job["lr_scheduler"]["warmup_steps"]) == ("AdamW", 200)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "config/experiments/tiny.yaml:1: not valid YAML"),
        ("- a\n- b", "expected keys and values"),
        ("task: classification\ntask: classification", "the key task stands twice"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(project, text, message):
    write(project, text=text)
    with pytest.raises(UserError, match=message):
        config.load_experiment("tiny")


def test_a_missing_experiment_names_the_close_one(project):
    write(project)
    with pytest.raises(UserError, match="no such experiment file: did you mean tiny"):
        config.load_experiment("tinny")


def test_outside_a_project_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not inside an lt25 project"):
        config.load_experiment("tiny")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("speech_recognition", {"n_mels": 64}, "prepare.n_mels: found 64, allowed: 40, 80"),
        ("speech_recognition", {"sample_rate": "16k"}, 'prepare.sample_rate: found "16k", expected a whole number'),
        (
            "speech_recognition",
            {"alphabet": "ae\u0301"},
            "prepare.alphabet: transcripts are put in Unicode's form NFKC, in which it is 'aé'",
        ),
        (
            "speech_recognition",
            {"sample_rate": 10**9},
            "prepare.sample_rate: found 1000000000, expected at most 192000",
        ),
        ("speech_recognition", {"alphabet": "aBC"}, "prepare.alphabet: found B, and transcripts are put in lower case"),
        (
            "speech_recognition",
            {"alphabet": "a|b"},
            'prepare.alphabet: found "a|b", expected: characters, each once, without',
        ),
        (
            "speech_recognition",
            {"alphabet": "aba"},
            'prepare.alphabet: found "aba", expected: characters, each once, without',
        ),
        ("language_modeling", {"vocab_size": 200}, "prepare.vocab_size: found 200, expected at least 257"),
        ("speech_recognition", {"store": "video"}, 'prepare.store: found "video", allowed: features, audio'),
        ("language_modeling", {"vocab_size": True}, "prepare.vocab_size: found true, expected a whole number"),
    ],
)
def test_options_of_preparation_are_checked_by_task(project, task, options, message):
    dataset = {"speech_recognition": "spoken-digits", "language_modeling": "stdlib"}[task]
    write(project, {"task": task, "dataset": dataset, "prepare": options})
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    assert str(caught.value).startswith(f"config/experiments/tiny.yaml: {message}")


def test_a_key_that_does_nothing_is_taken_where_it_is_known_to(project):
    for given in (
        {"tied_dropout": True, "dropout": 0.0},
        {"conv_size": 9, "use_short_conv": False},
        {"hidden_ratio": 2, "intermediate_size": None},
    ):
        write(project, {f"model.{key}": value for key, value in given.items()})
        model = config.load_experiment("tiny").model
        assert {key: model[key] for key in given} == given


@pytest.mark.parametrize(
    ("augment", "store", "message"),
    [
        ({"gain": 3}, "audio", "augment.gain: unknown key: did you mean gain_db?"),
        ({"gain_db": [3]}, "audio", "augment.gain_db: found [3], expected a list of 2 values"),
        ({"gain_db": [float("nan"), 3]}, "audio", "augment.gain_db[0]: found nan, expected a finite number"),
        ({"gain_db": [3, -3]}, "audio", "augment.gain_db: found [3, -3], expected the lower one first"),
        ({"gain_db": [-3, 3]}, "features", "augment.gain_db: needs audio, and prepare.store is features"),
    ],
)
def test_augmentation_is_checked_by_task_and_against_the_data(project, augment, store, message):
    change = {"task": "speech_recognition", "dataset": "spoken-digits", "prepare": {"store": store}}
    write(project, {**change, "augment": augment})
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    assert str(caught.value).startswith(f"config/experiments/tiny.yaml: {message}")
    write(project, {**change, "augment": {}})
    assert config.load_experiment("tiny").augment["gain_db"] is None


LEAVES = {
    "title": "Leaves",
    "licence": "my own",
    "tasks": ["classification"],
    "origin": {"path": "leaves"},
    "columns": {"input": "image", "label": "label"},
    "splits": {"train": "all", "test": {"from": "train", "fraction": 0.2}},
}


def write_dataset(project, **changes):
    if (project / "config" / "datasets").is_symlink():
        (project / "config" / "datasets").unlink()
    (project / "config" / "datasets").mkdir(exist_ok=True)
    (project / "config" / "datasets" / "leaves.yaml").write_text(yaml.safe_dump({**LEAVES, **changes}))


def test_a_dataset_is_resolved(project):
    write_dataset(project)
    data = config.load_dataset_config("leaves")
    assert data.splits["validation"] == {"from": "train", "fraction": 0.1}
    assert data.origin == {"path": "leaves"}
    assert data.options["labels"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": {}}, "colums: unknown key: did you mean columns?"),
        ({"tasks": ["vision"]}, 'tasks[0]: found "vision", allowed: classification, '),
        ({"origin": {}}, "origin"),
        ({"origin": {"path": "x", "hub": "a/b"}}, "origin"),
        (
            {"origin": {"builder": "mnist"}},
            'origin.builder: found "mnist", allowed: sklearn_digits, espeak, ',
        ),
        ({"columns": {"inptu": "image"}}, "columns.inptu: unknown key: did you mean input?"),
        ({"splits": {"train": "all"}}, "splits.test: missing"),
        ({"splits": {"train": "all", "test": {"from": "train", "fraction": 2}}}, "splits.test"),
        ({"splits": {"train": "all", "test": "test", "test_other": "other"}}, "splits.test_other: unknown key: "),
        (
            {"splits": {"train": "all", "test": "test", "test-": "other"}},
            "splits.test-: unknown key: did you mean test?",
        ),
        (
            {"splits": {"train": "all", "test": "test", "test-ö": "other"}},
            "splits.test-ö: unknown key: did you mean test?",
        ),
        ({"splits": {"train": "all", "test": "test", "other": "other"}}, "splits.other: unknown key: "),
        ({"splits": {"train": "all", "test": "test", 7: "other"}}, "splits.7: unknown key: "),
        (
            {"splits": {"train": "all", "test": "test", "test-a": 3}},
            "splits.test-a: found 3, expected a text or a list",
        ),
        (
            {"splits": {"train": "all", "test": "test", "test-a": "all"}},
            "splits.test-a: all is read for splits.train too",
        ),
    ],
)
def test_a_wrong_dataset_file_is_one_line(project, change, message):
    write_dataset(project, **change)
    with pytest.raises(UserError) as caught:
        config.load_dataset_config("leaves")
    assert str(caught.value).startswith(f"config/datasets/leaves.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_further_test_splits_are_named_after_test(project):
    parts = {"test-other": ["x", "y"], "test-Far-2": {"from": "train", "fraction": 0.1}}
    write_dataset(project, splits={**parts, "train": "all", "test": "z"})
    data = config.load_dataset_config("leaves")
    assert data.splits == {"train": "all", "validation": {"from": "train", "fraction": 0.1}, "test": "z", **parts}
    write_dataset(project, splits={"train": "all", "test": "z", "tests-other": "x"})
    with pytest.raises(
        UserError, match="; a further test split is named test- and letters, digits or -, as in test-other"
    ):
        config.load_dataset_config("leaves")


def test_a_dataset_must_have_the_columns_that_the_task_needs(project):
    write_dataset(project, columns={"input": "image"})
    write(project, {"dataset": "leaves"})
    with pytest.raises(
        UserError, match=r"config/datasets/leaves.yaml: columns.label: missing: classification needs it"
    ):
        config.load_experiment("tiny")


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "config" / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_experiment_file_is_valid(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert config.load_experiment(path).name == path.stem


@pytest.mark.parametrize(
    "name", ["$(touch F)", "a b", ".", "..", ".hidden", "a;b", "-x", "a@optimizer.lr=1", "ä", "a\nb"]
)
def test_a_name_that_a_shell_or_a_folder_would_take_amiss_is_refused(project, name):
    write(project, name=name)
    with pytest.raises(UserError, match="as the name of a file, expected letters, digits"):
        config.load_experiment(f"config/experiments/{name}.yaml")
    dataset = (REPOSITORY / "config" / "datasets" / "digits.yaml").read_text()
    (project / f"{name}.yaml").write_text(dataset)
    with pytest.raises(UserError, match="as the name of a file, expected letters, digits"):
        config.load_dataset_config(f"{name}.yaml")
    for key in ("dataset", "init_from"):
        write(project, {key: name})
        with pytest.raises(UserError, match=f"config/experiments/tiny.yaml: {key}: found"):
            config.load_experiment("tiny")


@pytest.mark.parametrize("name", ["a/b", "../tiny", "$(touch F)", "", "a b"])
def test_a_bare_name_is_no_path(project, name):
    said = (
        "expected the name of {}, or a path that ends"
        if "/" in name
        else "as the name of {}, or a path, expected letters"
    )
    with pytest.raises(UserError, match=said.format("an experiment")):
        config.load_experiment(name)
    with pytest.raises(UserError, match=said.format("a dataset")):
        config.load_dataset_config(name)


def test_a_folder_is_no_experiment_and_another_file_no_base(project):
    (project / "config/experiments/zz.yaml").mkdir()
    with pytest.raises(UserError, match=r"^config/experiments/zz.yaml: is a folder, expected a file: rename one$"):
        config.load_experiment("zz")
    write(project, {"model.base": "/etc/passwd"})
    with pytest.raises(UserError, match=r"^config/experiments/tiny.yaml: model.base: /etc/passwd:1: not valid JSON"):
        config.load_experiment("tiny")
    write(project, {"task": None})
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    assert caught.value.lines == ("config/experiments/tiny.yaml: task: found null, expected a text",)


def test_a_dataset_or_a_start_that_is_not_there_is_named_with_the_file_and_key_that_ask_for_it(project):
    write(project, {"dataset": "nope"})
    with pytest.raises(
        UserError, match=r"^config/experiments/tiny.yaml: dataset: config/datasets/nope.yaml: no such dataset"
    ):
        config.load_experiment("tiny")
    write(project, {"init_from": "nope"})
    with pytest.raises(
        UserError, match=r"^config/experiments/tiny.yaml: init_from: config/experiments/nope.yaml: no such exp"
    ):
        config.load_experiment("tiny")


def test_a_base_of_another_type_is_not_blamed_for_its_keys(project):
    write(project, {"model": {"base": "config/models/hgrn_classifier_tiny.json", "model_type": "gla"}})
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    said = (
        "model.model_type: found gla, but model.base, config/models/hgrn_classifier_tiny.json, is of the type lt25_hgrn"
    )
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compile.backend": "foo"}, 'compile.backend: found "foo", allowed: inductor'),
        ({"compile.components": []}, "compile.components: found [], expected a list of at least 1 value"),
        ({"debug.seed": -1}, "debug.seed: found -1, expected at least 0"),
        ({"debug.seed": 2**63}, f"debug.seed: found {2**63}, expected at most {2**63 - 1}"),
        ({"debug.seed": True}, "debug.seed: found true, expected a whole number"),
        ({"debug.seed": 0.5}, "debug.seed: found 0.5, expected a whole number"),
        ({"debug.seed": None}, "debug.seed: found null, expected a whole number"),
        ({"augment": {"gain_db": [1, 2]}}, "augment.gain_db: unknown key: there are crop, "),
        ({"metrics.save_tb_folder": "../../x"}, 'metrics.save_tb_folder: found "../../x", expected: a folder inside'),
        ({"metrics.save_tb_folder": "/tmp/x"}, "expected: a folder inside the run's"),
        ({"profiling.save_traces_folder": "a/../../x"}, "expected: a folder inside the run's"),
        ({"comm.save_traces_file_prefix": "../x"}, "comm.save_traces_file_prefix: found"),
        ({"evaluation.splits": ["test", "test"]}, "in which a value stands twice: remove one"),
        ({"evaluation.splits": "test"}, 'evaluation.splits: found "test", expected a list'),
        ({"model.num_labels": 3}, "model.num_labels: the data decides it: remove the key"),
        ({"model.input_size": 3}, "model.input_size: the data decides it: remove the key"),
    ],
)
def test_what_used_to_pass_or_to_be_said_badly(project, change, message):
    write(project, change)
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    assert message in str(caught.value)
    assert str(caught.value).startswith("config/experiments/tiny.yaml: ")


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_any_seed_from_0_is_one(project, seed):
    write(project, {"debug.seed": seed})
    assert config.load_experiment("tiny").job["debug"]["seed"] == seed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": {"hub": "../x"}}, 'origin.hub: found "../x", expected: owner/name, or a name alone'),
        ({"origin": {"hub": "a/.."}}, "origin.hub: found"),
        ({"origin": {"hub": "/etc"}}, "origin.hub: found"),
        (
            {"origin": {"hub": "a/b", "files": {"train": "../../x"}}},
            'origin.files.train: found "../../x", expected: a pattern',
        ),
        (
            {"origin": {"hub": "a/b", "files": {"train": ["a", "/etc/*"]}}},
            'origin.files.train[1]: found "/etc/*", expected: a pat',
        ),
        ({"origin": {"path": "a", "files": {"train": "b/../../x/*"}}}, "origin.files.train: found"),
        ({"origin": {"path": "a", "utterances": {"train": 3}}}, "origin.utterances: only for the builder espeak"),
        ({"origin": {"builder": "recall"}}, "origin.kind: missing: the builder recall needs it"),
        ({"origin": {"builder": "stdlib", "kind": "mqar"}}, "origin.kind: only for the builder recall"),
        ({"origin": {"builder": "stdlib", "megabytes": 3}}, "origin.megabytes: only for the builder repeated_stdlib"),
        (
            {"origin": {"builder": "espeak", "left_out": "lucas"}},
            "origin.left_out: only for the builder connected_digits",
        ),
        ({"origin": {"builder": "stdlib", "files": {"a": "b"}}}, "origin.files: only for origin.hub or origin.path"),
        (
            {"splits": {"train": "all", "test": "all"}},
            "splits.test: all is read for splits.train too: name another split",
        ),
        (
            {"splits": {"train": ["a", "b"], "test": "c", "validation": ["b"]}},
            "splits.validation: b is read for splits.train",
        ),
        (
            {"origin": {"builder": "stdlib", "utterances": {"train": 3}}},
            "origin.utterances: only for the builder espeak",
        ),
        ({"origin": {"path": "a", "revision": "x"}}, "origin.revision: only for origin.hub"),
        ({"origin": {"path": "a", "hub": "b"}}, "expected one of the keys builder, hub, path"),
        ({"origin": {}}, "expected one of the keys builder, hub, path"),
        ({"homepage": "javascript:alert(1)"}, "homepage: found"),
        ({"splits": {"train": "all", "test": {"from": "train", "fraction": 0.9}}}, "leaves nothing to train on"),
        (
            {"splits": {"train": "all", "test": {"from": "train", "fraction": 2}}},
            "splits.test.fraction: found 2, expected less than 1",
        ),
        ({"splits": {"train": "all", "test": 3}}, "splits.test: found 3, expected a text or a list or keys and values"),
        ({"splits": {"train": "all", "test": {"from": "validation", "fraction": 0.1}}}, "splits.test.from: found"),
        ({"tasks": []}, "tasks: found [], expected a list of at least 1 value"),
    ],
)
def test_a_mistake_in_a_dataset_file_is_one_line(tmp_path, project, changes, message):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**LEAVES, **changes}))
    with pytest.raises(UserError) as caught:
        config.load_dataset_config("mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_name_of_a_variant_stands_wherever_a_name_does(project):
    write(project)
    variant = config.load_experiment("tiny", ["optimizer.lr=1e-2"])
    assert config.load_experiment(variant.name) == variant
    assert config.load_experiment("tiny@optimizer.lr=1e-2").name == "tiny@optimizer.lr=0.01"
    both = config.load_experiment(variant.name, ["training.steps=20"])
    assert both.name == "tiny@optimizer.lr=0.01+training.steps=20"
    with pytest.raises(UserError, match="tiny@nonsense: no such variant"):
        config.load_experiment("tiny@nonsense")


@pytest.mark.parametrize(
    "override",
    ["checkpoint.interval=3", "checkpoint.load_step=5", "metrics.log_freq=3", "training.dataloader.num_workers=1"],
)
def test_an_override_that_decides_nothing_leaves_the_results_where_they_are(project, override):
    write(project)
    plain, other = config.load_experiment("tiny"), config.load_experiment("tiny", [override])
    assert (other.name, other.results_dir, other.evaluation_dir) == ("tiny", plain.results_dir, plain.evaluation_dir)
    assert other.job_file == plain.results_dir / f"job@{override}.toml"
    assert plain.job_file == plain.results_dir / "job.toml"


def test_batches_and_validation_make_a_variant_where_they_decide(project):
    write(project, {"training.global_batch_size": 8})
    assert config.load_experiment("tiny", ["training.local_batch_size=2"]).name == "tiny"
    assert config.load_experiment("tiny", ["training.global_batch_size=4"]).name == "tiny@training.global_batch_size=4"
    assert config.load_experiment("tiny", ["validation.freq=5"]).name == "tiny"
    assert "@validation.freq=5" in config.load_experiment("tiny", ["validation.freq=5", "validation.patience=1"]).name
    write(project)
    assert config.load_experiment("tiny", ["training.local_batch_size=2"]).name == "tiny@training.local_batch_size=2"
