"""Training of every task, in one process and in two, and the settings that must not change where it arrives."""

import json
import math
import shutil
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lt25.checkpoints import plain
from lt25.data.prepared import PreparedSplit
from lt25.experiment import TASKS
from lt25.files import load_record, write_record
from lt25.ops import frames_needed
from tests import tiny

PLAIN = {"model": {"dropout": 0.0}}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    return tmp_path


def losses(experiment):
    return [record["loss"] for record in tiny.history(experiment)]


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_give_the_losses_of_one(root, task):
    one = tiny.tiny(root, task, "one", **PLAIN)
    done = tiny.train(one)
    assert done.returncode == 0, done.stderr
    marker = json.loads((one.results_dir / "train.json").read_text())
    assert marker["steps"] == 12
    assert marker["checkpoints"] == [4, 8, 12]
    assert marker["loss"] == losses(one)[-1]
    assert [record["step"] for record in tiny.history(one)] == list(range(1, 13))
    assert list((one.results_dir / marker["run_dir"] / "tb").rglob("events.*"))

    two = tiny.tiny(root, task, "two", training={"local_batch_size": 2, "global_batch_size": 4}, **PLAIN)
    done = tiny.train(two, processes=2)
    assert done.returncode == 0, done.stderr
    assert "two: 2 processes: replicated (DDP): " in done.stdout
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert json.loads((two.results_dir / "train.json").read_text())["world_size"] == 2
    for name, tensor in tiny.weights(one, 12).items():
        torch.testing.assert_close(tiny.weights(two, 12)[name], tensor, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("parallelism", "local"),
    [
        ({"data_parallel_shard_degree": 2}, 2),
        ({"data_parallel_replicate_degree": 2, "data_parallel_shard_degree": 1}, 1),
    ],
    ids=["shards", "replicas that accumulate"],
)
def test_degrees_that_are_given_are_kept(root, parallelism, local):
    one = tiny.tiny(root, "speech_recognition", "one", **PLAIN)
    assert tiny.train(one).returncode == 0
    training = {"local_batch_size": local, "global_batch_size": 4}
    two = tiny.tiny(root, "speech_recognition", "two", training=training, parallelism=parallelism, **PLAIN)
    done = tiny.train(two, processes=2)
    assert done.returncode == 0, done.stderr
    assert "replicated" not in done.stdout
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"local_batch_size": 2, "global_batch_size": 4}},
        {"activation_checkpoint": {"mode": "full"}},
        {"checkpoint": {"async_mode": "async"}},
    ],
    ids=["accumulation", "activation checkpointing", "asynchronous checkpoints"],
)
def test_settings_of_speed_and_memory_do_not_change_the_result(root, sections):
    plain = tiny.tiny(root, "speech_recognition", "plain", **PLAIN)
    assert tiny.train(plain).returncode == 0
    other = tiny.tiny(root, "speech_recognition", "other", **sections, **PLAIN)
    done = tiny.train(other)
    assert done.returncode == 0, done.stderr
    assert losses(other) == pytest.approx(losses(plain), abs=1e-5)
    assert (other.results_dir / "checkpoints" / "step-12" / "manifest.json").is_file()


@pytest.mark.parametrize("tied", [False, True], ids=["two matrices", "tied"])
def test_a_language_models_loss_is_the_same_from_its_head_and_from_logits(root, tied):
    model = {"dropout": 0.0, "tie_word_embeddings": tied}
    logits = tiny.tiny(root, "language_modeling", "logits", model=model, training={"fused_loss": False})
    head = tiny.tiny(root, "language_modeling", "head", model=model)
    halves = {"local_batch_size": 2, "global_batch_size": 4}
    shards = {"data_parallel_shard_degree": 2}
    sharded = tiny.tiny(root, "language_modeling", "sharded", model=model, training=halves, parallelism=shards)
    for experiment, processes in ((logits, 1), (head, 1), (sharded, 2)):
        done = tiny.train(experiment, processes=processes)
        assert done.returncode == 0, done.stderr
    assert losses(head) == pytest.approx(losses(logits), abs=1e-5)
    assert losses(sharded) == pytest.approx(losses(logits), abs=1e-4)


def test_z_loss_is_part_of_the_training_loss_and_not_of_validations(root):
    settings = {"validation": {"freq": 12}, "optimizer": {"lr": 1e-9}, **PLAIN}
    plain = tiny.tiny(root, "language_modeling", "plain", **settings)
    added = tiny.tiny(root, "language_modeling", "added", training={"z_loss": 1.0}, **settings)
    for experiment in (plain, added):
        done = tiny.train(experiment)
        assert done.returncode == 0, done.stderr
    *steps, validation = tiny.history(plain)
    *with_z, same = tiny.history(added)
    # Of weights near zero all 11 logits are near zero.
    for one, other in zip(steps, with_z, strict=True):
        assert other["loss"] - one["loss"] == pytest.approx(math.log(11) ** 2, abs=0.1)
    assert same["validation"]["loss"] == pytest.approx(validation["validation"]["loss"], abs=1e-6)


def test_muon_and_means_of_weights_are_the_same_in_shards_and_means_are_exported(root):
    settings = {"optimizer": {"name": "Muon", "lr": 1e-2, "ema_decay": 0.5}, "validation": {"freq": 12}, **PLAIN}
    one = tiny.tiny(root, "language_modeling", "one", **settings)
    halves = {"local_batch_size": 2, "global_batch_size": 4}
    shards = {"data_parallel_shard_degree": 2}
    two = tiny.tiny(root, "language_modeling", "two", training=halves, parallelism=shards, **settings)
    for experiment, processes in ((one, 1), (two, 2)):
        done = tiny.train(experiment, processes=processes)
        assert done.returncode == 0, done.stderr
    *steps, validation = tiny.history(one)
    *others, same = tiny.history(two)
    # Products in bfloat16 make matrices orthogonal, and round otherwise in another order.
    assert [step["loss"] for step in others] == pytest.approx([step["loss"] for step in steps], abs=5e-3)
    assert same["validation"]["loss"] == pytest.approx(validation["validation"]["loss"], abs=5e-3)
    checkpoint = one.results_dir / "checkpoints" / "step-12"
    means, weights = tiny.weights(one, 12), {}
    for name, tensor in means.items():
        torch.testing.assert_close(tiny.weights(two, 12)[name], tensor, atol=5e-3, rtol=0)
        weights[f"hf.{name}"] = torch.empty_like(tensor)
    plain.load(weights, checkpoint, no_dist=True)
    assert all(not torch.equal(weights[f"hf.{name}"], tensor) for name, tensor in means.items())


def test_weights_and_optimizer_can_be_kept_in_bfloat16(root):
    training = {"dtype": "bfloat16", "mixed_precision_param": "bfloat16"}
    experiment = tiny.tiny(root, "language_modeling", training=training, optimizer={"lr": 3e-2}, **PLAIN)
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    assert {tensor.dtype for tensor in tiny.weights(experiment, 12).values()} == {torch.bfloat16}
    stored = plain.read_metadata(experiment.results_dir / "checkpoints" / "step-12").state_dict_metadata
    moments = [entry.properties.dtype for name, entry in stored.items() if name.endswith(".exp_avg")]
    assert moments and set(moments) == {torch.bfloat16}
    assert losses(experiment)[-1] < losses(experiment)[0]


def test_norms_of_layers_and_traces_of_the_profiler_are_recorded(root):
    settings = {
        "metrics": {"log_freq": 1, "log_layer_norms": True},
        "profiling": {"enable_profiling": True, "profile_freq": 2, "profiler_warmup": 1},
    }
    experiment = tiny.tiny(root, "language_modeling", training={"steps": 2}, **settings)
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    run = (experiment.results_dir / "checkpoints").resolve().parent
    assert json.loads(next((run / "profile_traces").rglob("rank0_trace.json")).read_text())["traceEvents"]
    events = EventAccumulator(str(next((run / "tb").rglob("events.*")).parent)).Reload()
    parts = {"layers.0", "layers.1", "model", "model.embeddings", "model.norm", "lm_head"}
    for kind in ("grad_norm", "weight_norm"):
        recorded = {tag for tag in events.Tags()["scalars"] if tag.startswith(f"{kind}/")}
        assert recorded == {f"{kind}/{part}" for part in parts}
    squares = sum(events.Scalars(f"grad_norm/{part}")[0].value ** 2 for part in parts)
    assert squares**0.5 == pytest.approx(tiny.history(experiment)[0]["grad_norm"], rel=1e-4)


def test_a_snapshot_of_a_cpus_memory_is_refused(root):
    experiment = tiny.tiny(root, "language_modeling", profiling={"enable_memory_snapshot": True})
    done = tiny.train(experiment)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "lt25: error: profiling.enable_memory_snapshot: found true, but only a GPU's memory has one: use false"
    )


def test_compiled_layers_give_the_same_losses(root):
    plain = tiny.tiny(root, "language_modeling", "plain", **PLAIN)
    assert tiny.train(plain).returncode == 0
    other = tiny.tiny(
        root, "language_modeling", "other", compile={"enable": True}, debug={"deterministic": False}, **PLAIN
    )
    done = tiny.train(other)
    assert done.returncode == 0, done.stderr
    assert losses(other) == pytest.approx(losses(plain), abs=1e-4)


def test_a_step_with_a_nan_gradient_is_skipped_counted_and_leaves_the_schedule_standing(root):
    experiment = tiny.tiny(root, "classification", lr_scheduler={"warmup_steps": 12})
    shard = next(experiment.processed_dir.glob("train-*.safetensors"))
    tensors = load_file(shard)
    tensors["inputs"][0] = float("nan")
    save_file(tensors, shard)
    stats = experiment.processed_dir / "stats.json"
    record = load_record(stats)
    write_record(stats, record, [stats.parent / name for name in record["files"]])
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    records = tiny.history(experiment)
    skipped = json.loads((experiment.results_dir / "train.json").read_text())["skipped_steps"]
    assert skipped == sum(record["loss"] != record["loss"] for record in records) == 2
    after_nan = [b["lr"] == a["lr"] for a, b in pairwise(records)]
    assert after_nan == [record["loss"] != record["loss"] for record in records[:-1]]
    assert all(tensor.isfinite().all() for tensor in tiny.weights(experiment, 12).values())
    assert "skipped" in done.stdout


def test_utterances_too_short_for_their_transcripts_are_counted_and_shown(root):
    changes = {"model": {"subsampling": 4}, "checkpoint": {"interval": 6}}
    experiment = tiny.tiny(root, "speech_recognition", **changes)
    split = PreparedSplit(experiment.processed_dir, "train")
    unfit = sum(
        -(-len(item["input"]) // 4) < int(frames_needed(item["label"][None]))
        for item in map(split.__getitem__, range(24))
    )
    assert 0 < unfit < 24
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    # Twelve steps of four are two epochs.
    record = json.loads((experiment.results_dir / "train.json").read_text())
    assert record["infinite_losses"] == 2 * unfit
    assert f"infinite losses {2 * unfit}" in done.stdout
    assert all(value["loss"] < 100 for value in tiny.history(experiment))

    # A run that is resumed goes on counting, and several processes count together.
    shutil.rmtree(experiment.results_dir / "checkpoints" / "step-12")
    (experiment.results_dir / "train.json").unlink()
    assert tiny.train(experiment).returncode == 0
    assert json.loads((experiment.results_dir / "train.json").read_text())["infinite_losses"] == 2 * unfit
    halves = {"local_batch_size": 2, "global_batch_size": 4}
    two = tiny.tiny(root, "speech_recognition", "two", training=halves, **changes)
    assert tiny.train(two, processes=2).returncode == 0
    assert json.loads((two.results_dir / "train.json").read_text())["infinite_losses"] == 2 * unfit


def test_wandb_runs_offline_under_one_id_when_a_project_is_named(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 4})
    secret = "planted0" * 5
    offline = {"WANDB_PROJECT": "trial", "WANDB_MODE": "offline", "WANDB_API_KEY": secret}
    done = tiny.train(experiment, **offline)
    assert done.returncode == 0, done.stderr
    written = (path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert not any(secret.encode() in text for text in (*written, done.stdout.encode(), done.stderr.encode()))
    shutil.rmtree(experiment.results_dir / "checkpoints" / "step-4")
    (experiment.results_dir / "train.json").unlink()
    assert tiny.train(experiment, **offline).returncode == 0
    runs = sorted(path.name for path in experiment.results_dir.rglob("offline-run-*"))
    fingerprint = json.loads((experiment.results_dir / "train.json").read_text())["fingerprint"]
    assert len(runs) == 2
    assert all(name.endswith(f"tiny-{fingerprint}") for name in runs)


def test_without_a_project_nothing_of_wandb_is_written(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 2})
    assert tiny.train(experiment).returncode == 0
    assert not list(root.rglob("wandb"))


def test_a_job_without_checkpoints_trains_to_its_end(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 3}, checkpoint={"enable": False})
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    assert json.loads((experiment.results_dir / "train.json").read_text())["checkpoints"] == []
