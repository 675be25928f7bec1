"""`lt25 check`: what can be known of an experiment before anything runs."""

import importlib.util
import json
import re

import httpx
import pytest
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.numpy import save_file

from lt25 import cli
from lt25.errors import UserError
from lt25.experiment import load_experiment
from lt25.files import write_record
from lt25.training.job import job_of, write_job
from lt25.training.run import identity_of
from tests import tiny
from tests.data import make


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one experiment on a table that lies in a folder."""
    for name in ("NGPU", "NNODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "config" / "datasets").mkdir(parents=True)
    (tmp_path / "config" / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path)
    make.write(tmp_path / "reviews" / "all.csv", "text,label\ngood,1\nbad,0\n")
    tiny.write_experiment(tmp_path, "language_modeling", dataset="reviews")
    return tmp_path


def write_dataset(root, **changes):
    dataset = {
        "title": "Reviews",
        "licence": "my own",
        "tasks": ["language_modeling"],
        "origin": {"path": "reviews"},
        "columns": {"text": "text"},
        "splits": make.HELD_OUT,
    }
    (root / "config" / "datasets" / "reviews.yaml").write_text(yaml.safe_dump({**dataset, **changes}))


def checked(capsys, *arguments) -> tuple[int, str]:
    status = cli.main(["check", *arguments])
    return status, capsys.readouterr().out


def test_a_good_experiment_is_ok(project, capsys):
    to_run = "to be run: download, prepare, train, export, evaluate"
    assert checked(capsys) == (0, f"tiny: ok; {to_run}\n")
    assert checked(capsys, "tiny", "--optimizer.lr", "1e-4") == (0, f"tiny@optimizer.lr=0.0001: ok; {to_run}\n")


def test_the_stages_that_have_not_been_run_are_said_together(project, capsys):
    make.write(project / "config" / "config.yaml", "experiments: [tiny]\n")
    assert cli.main(["download", "reviews"]) == 0
    capsys.readouterr()
    assert checked(capsys) == (0, "tiny: ok; to be run: prepare, train, export, evaluate\n")
    results = project / "results" / "tiny"
    for file in ("train.json", "hf/config.json", "evaluation/metrics.json"):
        make.write(results / file, "{}")
    make.write(load_experiment("tiny").processed_dir / "stats.json", "{}")
    assert checked(capsys) == (0, "tiny: ok\n")


def test_all_experiments_are_checked_and_a_wrong_one_does_not_hide_the_others(project, capsys):
    (project / "config" / "experiments" / "broken.yaml").write_text("task: [")
    status, said = checked(capsys)
    assert status == 2
    assert said.splitlines()[1].startswith("tiny: ok")
    assert said.count("\n") == 2
    assert said.startswith("broken: config/experiments/broken.yaml:1: not valid YAML")
    assert checked(capsys, "tiny")[0] == 0
    assert checked(capsys, "nosuch")[0] == 2
    # Where config.yaml says which experiments matter, another one is not asked for.
    make.write(project / "config" / "config.yaml", "experiments: [tiny]\n")
    status, said = checked(capsys)
    assert status == 0
    assert said.startswith("warning: broken: config/experiments/broken.yaml:1: not valid YAML")
    assert checked(capsys, "broken")[0] == 2


def test_everything_that_is_wrong_is_listed(project, capsys, monkeypatch):
    monkeypatch.setenv("NGPU", "1")
    write_dataset(project, columns={"text": "review"})
    status, said = checked(capsys, "tiny", "--checkpoint.load_step=4", "--parallelism.data_parallel_shard_degree=2")
    assert status == 2
    assert [line.split(": ")[0] for line in said.splitlines()] == ["tiny"] * 3, said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"columns": {"text": "review"}},
            "config/datasets/reviews.yaml: columns.text: all.csv: no column review: it has text, label; mend",
        ),
        (
            {"columns": {"text": "text", "id": "number"}},
            "config/datasets/reviews.yaml: columns.id: all.csv: no column number: it has",
        ),
        ({"origin": {"path": "nowhere"}}, "config/datasets/reviews.yaml: origin.path: no such folder"),
        ({"splits": {"train": "all", "test": "test"}}, "belongs to the source's split test"),
        (
            {"splits": {"train": "all", "test": {"from": "train", "fraction": 0.95}}},
            "splits: validation takes 0.1 and test takes 0.95 of train, which leaves nothing to train on",
        ),
    ],
)
def test_the_dataset_is_compared_with_the_data_that_is_there(project, capsys, change, message):
    write_dataset(project, **change)
    status, said = checked(capsys)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1


def test_a_column_that_no_line_of_json_has_is_named(project, capsys):
    (project / "reviews" / "all.csv").unlink()
    make.write(project / "reviews" / "all.jsonl", '{"review": "good"}\n{"review": "bad"}\n')
    status, said = checked(capsys)
    assert status == 2
    assert "reviews.yaml: columns.text: all.jsonl, line 1: no column text: it has review; mend" in said


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden_size": 65},
            "model.hidden_size: found 65, expected a multiple of model.num_attention_heads, 4: change one",
        ),
        ({"hidden_size": 68}, "model.hidden_size: found 68, which gives heads of 17, expected an even number"),
        (
            {"num_key_value_heads": 3},
            "model.num_key_value_heads: found 3, expected a divisor of model.num_attention_heads, 4: change one",
        ),
        ({"hidden_act": "foo"}, "model.hidden_act: found foo, which llama does not know"),
        ({"attention_dropout": 3}, "model.attention_dropout: found 3, expected less than 1"),
        ({"initializer_range": 3.0}, "model.initializer_range: found 3.0, expected at most 1.0"),
    ],
)
def test_a_model_of_another_package_is_made_to_see_that_its_sizes_fit(project, capsys, change, message):
    path = project / "config" / "experiments" / "tiny.yaml"
    written = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**written, "model": LLAMA}))
    assert checked(capsys)[0] == 0
    path.write_text(yaml.safe_dump({**written, "model": {**LLAMA, **change}}))
    status, said = checked(capsys)
    assert status == 2
    assert f"tiny: config/experiments/tiny.yaml: {message}" in said.replace("yaml: model: no", "yaml: no")
    assert said.count("\n") == 1


def test_data_that_is_not_there_yet_is_said(project, capsys):
    write_dataset(project, origin={"hub": "somebody/reviews"})
    status, said = checked(capsys)
    assert status == 0
    assert said.startswith("tiny: ok, but for its data, which needs `lt25 download reviews`; to be run: download, ")
    path = project / "config" / "experiments" / "tiny.yaml"
    datasets = project / "config" / "datasets"
    (datasets / "letters.yaml").write_text((datasets / "reviews.yaml").read_text())
    several = [{"name": name, "probability": 0.5} for name in ("reviews", "letters")]
    written = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "dataset"}
    path.write_text(yaml.safe_dump({**written, "datasets": several}))
    status, said = checked(capsys)
    assert said.startswith(
        "tiny: ok, but for its data, which needs `lt25 download reviews` and `lt25 download letters`; to be run: download, "
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "makes 1 micro-batches a step, but 1F1B wants one for each of the 2 stages at least"),
        (["--training.global_batch_size=8"], "tiny"),
        (
            ["--training.global_batch_size=20", "--parallelism.pipeline_parallel_schedule=Interleaved1F1B"],
            "makes 5 micro-batches a step, which Interleaved1F1B cannot take through in 2 equal rounds",
        ),
        (["--training.global_batch_size=24", "--parallelism.pipeline_parallel_schedule=Interleaved1F1B"], "tiny"),
    ],
)
def test_the_micro_batches_of_a_step_are_compared_with_the_stages(project, capsys, options, message):
    layers = ["--model.num_hidden_layers=4", "--parallelism.pipeline_parallel_degree=2"]
    status, said = checked(capsys, "tiny", *layers, *options)
    assert status == (0 if message == "tiny" else 2) and message in said, said


@pytest.mark.parametrize(
    ("override", "processes", "message"),
    [
        (
            "--parallelism.data_parallel_shard_degree=2",
            "1",
            "data_parallel_shard_degree 2 takes 2 processes, and there are 1",
        ),
        ("--parallelism.data_parallel_replicate_degree=2", "3", "takes a multiple of 2 processes, and there are 3"),
        (
            "--training.global_batch_size=12",
            "2",
            "12 is no multiple of training.local_batch_size, 4, times the 2 processes",
        ),
    ],
)
def test_devices_are_compared_with_parallelism_and_batch(project, capsys, monkeypatch, override, processes, message):
    monkeypatch.setenv("NGPU", processes)
    status, said = checked(capsys, "tiny", override)
    assert status == 2
    assert message in said
    monkeypatch.setenv("NGPU", "6" if "batch" not in override else "3")
    assert checked(capsys, "tiny", override.replace("shard_degree=2", "shard_degree=6"))[0] == 0


@pytest.mark.parametrize(
    ("degrees", "processes", "message"),
    [
        (
            {"data_parallel_replicate_degree": 2, "tensor_parallel_degree": 2},
            "4",
            "found DDP and TP together, not tested",
        ),
        ({"data_parallel_replicate_degree": 2, "tensor_parallel_degree": 2}, "8", None),
        (
            {f"{kind}_parallel_degree": 2 for kind in ("tensor", "pipeline", "context")},
            "16",
            "found FSDP and TP and PP and CP together, not tested",
        ),
        ({f"{kind}_parallel_degree": 2 for kind in ("tensor", "pipeline", "context")}, "8", None),
    ],
)
def test_shards_over_the_processes_that_are_left_are_part_of_the_mesh(
    project, capsys, monkeypatch, degrees, processes, message
):
    monkeypatch.setenv("NGPU", processes)
    options = [f"--parallelism.{key}={degree}" for key, degree in degrees.items()]
    status, said = checked(capsys, "tiny", *options, "--training.global_batch_size=16")
    assert (status == 0) if message is None else (status == 2 and message in said), said


def test_the_first_example_must_be_one_of_the_task(project, capsys):
    write_dataset(
        project, tasks=["classification"], columns={"input": "image", "label": "label"}, labels=["cat", "cow"]
    )
    make.image_folder(project / "reviews", 2)
    (project / "reviews" / "all.csv").unlink()
    tiny.write_experiment(project, "classification", dataset="reviews")
    status, said = checked(capsys)
    assert status == 2
    assert "config/datasets/reviews.yaml: labels: dog/0.png has dog, which is not among cat, cow: add it" in said
    write_dataset(project, tasks=["classification"], columns={"input": "image", "label": "label"})
    tiny.write_experiment(project, "classification", dataset="reviews", prepare={"layout": "series"})
    status, said = checked(capsys)
    assert status == 2
    assert "tiny.yaml: prepare.layout: found series, and the inputs are images: use pixels" in said
    # A key for recordings would only make a second preparation of the same content.
    tiny.write_experiment(project, "classification", dataset="reviews", prepare={"n_mels": 80})
    status, said = checked(capsys)
    assert status == 2
    assert (
        "tiny.yaml: prepare.n_mels: has no effect on images, for which there are layout, size, grey, permutation"
        in said
    )


def test_a_checkpoint_that_is_not_kept_is_said_before_training(project, capsys):
    status, said = checked(capsys, "tiny", "--checkpoint.load_step", "4")
    assert status == 2
    assert "checkpoint.load_step: no checkpoint of step 4 is kept: there are none" in said
    make.write(project / "results" / "tiny" / "checkpoints" / "step-4" / "manifest.json", "{}")
    assert checked(capsys, "tiny", "--checkpoint.load_step", "4")[0] == 0


def test_more_steps_than_position_embeddings_are_said_before_training(project, capsys):
    dataset = {"tasks": ["classification"], "columns": {"input": "text", "label": "label"}}
    write_dataset(project, **dataset, origin={"path": "series"})
    make.write(project / "series" / "all.csv", "text,label\n1 2 3,1\n3 2 1,0\n")
    model = {"position_embeddings": 5, "subsampling": 2}
    tiny.write_experiment(project, "classification", dataset="reviews", model=model)
    stats = load_experiment("tiny").processed_dir / "stats.json"
    stats.parent.mkdir(parents=True)
    write_record(stats, {"splits": {"train": {"lengths": {"edges": [3, 11]}}, "test": {"lengths": {"edges": [4, 12]}}}})
    status, said = checked(capsys, "tiny")
    assert status == 2
    assert "model.position_embeddings: found 5, but the longest sequence has 6 steps: use 6 or more" in said
    assert "position_embeddings" not in checked(capsys, "tiny", "--model.position_embeddings=6")[1].split(": ", 1)[1]


def test_a_result_of_another_state_of_the_experiment_is_said(project, capsys):
    make.write(project / "config" / "config.yaml", "experiments: [tiny]\n")
    experiment = tiny.tiny(project, "language_modeling", dataset="reviews")
    job = {**job_of(experiment), **experiment.job}
    write_record(
        experiment.results_dir / "train.json",
        {"identity": identity_of(job, 1), "path": [{"from": 0, "steps": 12}]},
    )
    assert checked(capsys, "tiny")[1].endswith("ok; to be run: export, evaluate\n")
    path = project / "config" / "experiments" / "tiny.yaml"
    written = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**written, "optimizer": {"lr": 0.5}}))
    again = "ok; to be run again"
    assert checked(capsys, "tiny")[1].endswith(f"{again}: optimizer.lr changed from 0.01 to 0.5\n")
    path.write_text(yaml.safe_dump({**written, "model": {**written["model"], "dropout": 0.5}}))
    assert checked(capsys, "tiny")[1].endswith(f"{again}: model.dropout changed from 0.1 to 0.5\n")
    path.write_text(yaml.safe_dump({**written, "prepare": {"documents": "lines"}}))
    assert checked(capsys, "tiny")[1].endswith(f"{again}: no data is prepared as the experiment says now\n")


def test_a_start_of_another_size_is_refused(project, capsys):
    wide = {**tiny.MODEL, "hidden_size": 24}
    tiny.write_experiment(project, "language_modeling", "wide", dataset="reviews", model=wide)
    tiny.write_experiment(project, "language_modeling", dataset="reviews", init_from="wide")
    status, said = checked(capsys, "tiny")
    assert status == 2
    assert "tiny.yaml: init_from: model.hidden_size is 16, but wide was trained with 24: set it to that" in said
    dataset = {"tasks": ["classification"], "columns": {"input": "image", "label": "label"}}
    write_dataset(project, **dataset)
    make.image_folder(project / "reviews", 2)
    (project / "reviews" / "all.csv").unlink()
    tiny.write_experiment(project, "classification", "seen", dataset="reviews", model=wide)
    tiny.write_experiment(project, "classification", "next", dataset="reviews", init_from="seen", model=wide)
    assert checked(capsys, "next")[0] == 0
    tiny.write_experiment(project, "classification", "next", dataset="reviews", init_from="seen")
    assert "next.yaml: init_from: model.hidden_size is 16, but seen" in checked(capsys, "next")[1]
    narrow = {**wide, "intermediate_size": 8}
    tiny.write_experiment(project, "classification", "next", dataset="reviews", init_from="seen", model=narrow)
    said = checked(capsys, "next")[1]
    assert "next.yaml: init_from: " in said and "intermediate_size is 8" in said


def test_a_folder_to_start_from_is_looked_at_before_it_is_brought(project, capsys, monkeypatch):
    def said(start):
        tiny.write_experiment(project, "language_modeling", dataset="reviews", init_from=start)
        status, found = checked(capsys, "tiny")
        assert status == 2
        return found

    monkeypatch.setenv("HOME", str(project))
    folder = project / "results" / "other" / "hf"
    assert "tiny.yaml: init_from: ~/results/other: no such folder: correct the path" in said("~/results/other")
    folder.mkdir(parents=True)
    assert "~/results/other: no config.json with weights in *.safetensors: name a model" in said("~/results/other")
    (folder / "config.json").write_text(json.dumps({**tiny.MODEL, "hidden_size": 24}))
    save_file({}, folder / "model.safetensors")
    assert "name a model that has both, as ~/results/other/hf" in said("~/results/other")
    assert "model.hidden_size is 16, but results/other/hf was trained with 24" in said("results/other/hf")


def test_a_parent_that_computes_something_else_with_the_same_weights_is_refused(project, capsys):
    tiny.write_experiment(project, "language_modeling", "other", dataset="reviews")
    free = {"dropout": 0.3, "initializer_range": 0.1}
    for changed, good in ((free, True), ({"norm_eps": 1e-3}, False)):
        child = tiny.write_experiment(project, "language_modeling", dataset="reviews", init_from="other", model=changed)
        status, found = checked(capsys, "tiny")
        assert (status == 0) == good
    said = "tiny.yaml: init_from: model.norm_eps is 0.001, but other was trained with 1e-06: set it to that"
    assert said in found
    with pytest.raises(UserError, match=re.escape(said)):
        write_job(child)


def test_a_start_of_other_tokens_is_none_of_another_size(project, capsys):
    # What knows them is made new.
    sections = {"model": {"dropout": 0.0}, "prepare": {"vocab_size": 300}}
    tiny.write_experiment(project, "language_modeling", "other", dataset="reviews", **sections)
    tiny.write_experiment(project, "language_modeling", dataset="reviews", init_from="other")
    assert checked(capsys, "tiny")[0] == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--training.float8=rowwise", "training.float8: found rowwise, but there is no GPU here"),
        (
            "--training.dataloader.num_workers=2",
            "training.dataloader.num_workers: found 2, but text is packed in one place",
        ),
        ("--training.context_len=17", "training.context_len: 17 is more than training.seq_len, 16"),
    ],
)
def test_what_training_would_refuse_or_ignore_is_refused(project, capsys, override, message):
    status, said = checked(capsys, "tiny", override)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1


def test_a_tokenizer_that_is_nowhere_is_refused_and_one_that_cannot_be_looked_for_is_said(project, capsys, monkeypatch):
    def no_such(self, name, timeout):
        raise RepositoryNotFoundError("404", response=httpx.Response(404, request=httpx.Request("GET", "http://there")))

    # Neither names a mirror, and the project has no config/config.yaml.
    monkeypatch.delenv("LT25_HUB_MIRROR", raising=False)
    wanted = ["tiny", "--prepare.tokenizer=nobody/nothing"]
    monkeypatch.setattr(HfApi, "model_info", no_such)
    status, said = checked(capsys, *wanted)
    assert status == 2 and "prepare.tokenizer: found nobody/nothing: no such tokenizer: name bpe, unigram" in said
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: [].pop())
    status, said = checked(capsys, *wanted)
    assert (
        status == 0 and "but for the tokenizer nobody/nothing, which is not here, and the Hub does not answer" in said
    )
    (project / "nobody" / "nothing").mkdir(parents=True)
    assert "but for" not in checked(capsys, *wanted)[1]
    monkeypatch.setattr(HfApi, "model_info", no_such)
    assert checked(capsys, "tiny", "--prepare.tokenizer=/no/such/folder")[0] == 2


def test_a_label_that_nothing_has_is_refused(project, capsys):
    settings = {"tasks": ["classification"], "columns": {"input": ["label"], "label": "text"}}
    make.write(project / "reviews" / "all.csv", "text,label\ngood,1\nbad,0\n")
    write_dataset(project, labels=["bad", "good", "odd"], **settings)
    tiny.write_experiment(project, "classification", dataset="reviews")
    said = checked(capsys)[1]
    assert "labels: odd is the label of no example of train: remove it" in said, said
    write_dataset(project, labels=["bad", "good"], **settings)
    assert checked(capsys)[0] == 0


def test_nodes_that_cannot_meet_are_said(project, capsys, monkeypatch):
    monkeypatch.setenv("NNODE", "2")
    monkeypatch.setenv("MASTER_ADDR", "no.such.host.invalid")
    assert cli.main(["check", "tiny"]) == 2
    assert "MASTER_ADDR: found no.such.host.invalid, which is no host" in capsys.readouterr().err


def test_what_is_wrong_with_the_environment_is_blamed_on_no_experiment(project, capsys, monkeypatch):
    monkeypatch.setenv("NGPU", "abc")
    assert cli.main(["check", "tiny"]) == 2
    assert capsys.readouterr() == ("", "lt25: error: NGPU: found 'abc', expected a whole number of at least 1\n")


def test_tasks_of_a_package_that_is_not_there_are_said_before_anything_is_trained(project, capsys, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else there(name))
    assert checked(capsys, "tiny", "--evaluation.lm_eval", "[piqa]") == (
        2,
        "tiny: evaluation.lm_eval: found piqa, but lm-eval is not installed: pip install 'lm-eval[hf]', or remove the key\n",
    )


def test_a_search_that_cannot_be_made_is_said_ahead(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.write_experiment(tmp_path, "speech_recognition", evaluation={"decoder": {"language_model": "lm.arpa"}})
    assert cli.main(["check", "tiny"]) == 2
    assert f"evaluation.decoder.language_model: {tmp_path}/lm.arpa: no such file" in capsys.readouterr().out
