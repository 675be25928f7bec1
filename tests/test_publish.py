"""`lt25 push-to-hub`, against a server on this machine that answers as the Hub does."""

import base64
import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
import yaml
from huggingface_hub import ModelCard, constants, parse_eval_result_entries

from lt25 import cli, publish
from lt25.checkpoints.card import LIMITS, where_measured
from lt25.errors import UserError
from lt25.files import write_json, write_record
from tests.report import trees

TOKEN = "hf_planted000000000000000000000000"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An experiment on a dataset of the Hub, exported and evaluated by all appearances."""
    root = tmp_path_factory.mktemp("project")
    one = trees.make(root, "classification", "leaves")
    dataset = replace(one.dataset, origin={"hub": "botany/leaves"}, licence="CC BY 4.0")
    one = replace(one, dataset=dataset)
    (root / "config" / "config.yaml").write_text("experiments: [leaves]\n")
    model = one.results_dir / "hf"
    model.mkdir()
    write_json(model / "config.json", {"model_type": "lt25_hgrn"})
    (model / "model.safetensors").write_bytes(b"\0" * 1500)
    front = "---\nlibrary_name: transformers\ntags:\n- lt25\n---\n\n"
    (model / "README.md").write_text(f"{front}# leaves\n\n{where_measured(one)}\n\n{LIMITS}\n\nAnything else.\n")
    record = {
        "experiment": "leaves",
        "step": 600,
        "fingerprint": "0123456789ab-600",
        "dataset": "leaves",
        "data": "abcd",
    }
    write_record(model / "export.json", record, sorted(model.iterdir()))
    # What is beside the model and not of its record stays here.
    (model / "step-200").mkdir()
    (model / "notes.txt").write_text("private")
    return one


@pytest.fixture
def project(exported, monkeypatch):
    monkeypatch.chdir(exported.root)
    monkeypatch.setattr(publish, "load_experiment", lambda name: exported)
    return exported


@pytest.fixture
def hub(monkeypatch):
    """A Hub that takes what it is sent; ``status`` is what it answers to a new repository."""
    seen = SimpleNamespace(status=200, asked=[], files={}, message="", tokens=set(), created={})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.asked.append(self.path)
            seen.tokens.add(self.headers.get("Authorization"))
            answer, status = {}, 200
            if self.path == "/api/repos/create":
                seen.created = json.loads(body)
                answer, status = {"url": f"{address}/me/leaves"}, seen.status
            elif self.path.endswith("/preupload/main"):
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(body)["files"]
                ]
                answer = {"files": files}
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "header":
                        seen.message = line["value"]["summary"]
                    else:
                        seen.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{address}/me/leaves/commit/0"}
            self.reply(status, answer)

        def do_GET(self):
            seen.asked.append(self.path)
            self.reply(seen.status, {"id": "me/leaves", "sha": "0" * 40, "siblings": []})

        def reply(self, status, answer):
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield seen
    server.shutdown()
    server.server_close()


def test_without_yes_it_says_what_would_be_sent_and_sends_nothing(project, hub, capsys):
    assert cli.main(["push-to-hub", "leaves", "me/leaves"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("me/leaves: would be written, from leaves, step 600:\n")
    sent = [line.split()[-1] for line in said.splitlines() if line.startswith("  ")]
    assert sent == [
        ".eval_results/lt25.yaml",
        "README.md",
        "config.json",
        "evaluation/metrics.json",
        "export.json",
        "model.safetensors",
        "provenance.json",
    ]
    assert "1.5 kB  model.safetensors" in said
    assert "licence: none yet, and --yes needs one: --licence apache-2.0; of the data: Scanned" in said
    assert "Nothing has been sent" in said and hub.asked == []
    assert TOKEN not in said


def test_the_repository_has_card_results_licence_and_provenance(project, hub, capsys):
    assert cli.main(["push-to-hub", "leaves", "me/leaves", "--licence", "apache-2.0", "--yes"]) == 0
    assert hub.message == "lt25: leaves, step 600"
    assert hub.created["name"] == "leaves"
    # Of one version of huggingface_hub or another.
    assert hub.created.get("visibility") == "private" or hub.created.get("private") is True
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert {"model.safetensors", "config.json", "export.json", "evaluation/metrics.json"} <= hub.files.keys()
    assert "notes.txt" not in hub.files and hub.files["model.safetensors"] == b"\0" * 1500
    text = hub.files["README.md"].decode()
    card = ModelCard(text).data
    (test,) = [one for one in card.eval_results if one.dataset_split == "test"]
    assert (card.license, card.model_name, test.dataset_type) == ("apache-2.0", "leaves", "botany/leaves")
    metrics = json.loads(hub.files["evaluation/metrics.json"])
    assert (test.metric_type, test.metric_value) == (
        "accuracy_percent",
        pytest.approx(100 * metrics["splits"]["test"]["accuracy"]),
    )
    assert "| test | accuracy percent | 92.7778 |" in text and "results/" not in text
    assert text.index("## What it reaches") < text.index(LIMITS)
    entries = parse_eval_result_entries(yaml.safe_load(hub.files[".eval_results/lt25.yaml"]))
    assert {(one.dataset_id, one.task_id) for one in entries} == {
        ("botany/leaves", "validation"),
        ("botany/leaves", "test"),
    }
    links = json.loads(hub.files["provenance.json"])["chain"]
    assert [link["what"] for link in links][:2] == ["model", "training"] and links[0]["step"] == 600
    assert not any(TOKEN.encode() in content for content in hub.files.values())
    assert str(project.root).encode() not in b"".join(hub.files.values())
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["leaves"], "found leaves, expected a repository of the Hub, owner/name"),
        (["a/b/c"], "found a/b/c, expected a repository"),
        (["me/leaves", "--yes"], "--yes needs --licence"),
        (["me/leaves", "--licence", "Apache 2"], "--licence: found Apache 2, expected the Hub's abbreviation"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_sent(project, hub, capsys, arguments, complaint):
    assert cli.main(["push-to-hub", "leaves", *arguments]) == 2
    assert complaint in capsys.readouterr().err and hub.asked == []


def test_what_the_hub_refuses_is_one_line(project, hub, monkeypatch):
    hub.status = 403
    with pytest.raises(UserError, match=r"refuses me/leaves \(403\): the token may not write there"):
        publish.push_to_hub("leaves", "me/leaves", "mit", yes=True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 does not answer: .*: try again"):
        publish.push_to_hub("leaves", "me/leaves", "mit", yes=True)


def test_a_damaged_model_and_one_that_is_not_measured_are_not_sent(project, hub, tmp_path):
    weights = Path(project.results_dir / "hf" / "model.safetensors")
    before, record = weights.read_bytes(), (project.results_dir / "hf" / "export.json").read_text()
    weights.write_bytes(b"1" * 1500)
    with pytest.raises(UserError, match=r"model.safetensors"):
        publish.push_to_hub("leaves", "me/leaves")
    weights.write_bytes(before)
    (project.results_dir / "hf" / "export.json").write_text(record)
    metrics = project.evaluation_dir / "metrics.json"
    aside = metrics.rename(tmp_path / "metrics.json")
    with pytest.raises(UserError, match=r"metrics.json.*lt25 evaluate leaves"):
        publish.push_to_hub("leaves", "me/leaves")
    aside.rename(metrics)
    assert hub.asked == []


@pytest.mark.parametrize("fault", [None, wandb.Error("no network")])
def test_an_evaluated_model_is_an_artifact_of_its_run_at_wandb_with_the_files_of_the_hub(
    project, monkeypatch, capsys, fault
):
    project = replace(project, job={**project.job, "metrics": {"enable_wandb": False}})
    logged = SimpleNamespace(files=set(), aliases=[])

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def log_artifact(self, artifact, aliases):
            logged.files, logged.name = set(artifact.manifest.entries), artifact.name
            logged.aliases, logged.metadata, logged.id = aliases, artifact.metadata, os.environ["WANDB_RUN_ID"]

    def init(**options):
        assert options == {"dir": project.results_dir}
        if fault:
            raise fault
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    for name in ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DATA_DIR", "WANDB_PROJECT"):
        # So that what is set is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    publish.log_to_wandb(project)
    assert not logged.aliases
    monkeypatch.setenv("WANDB_PROJECT", "trial")
    publish.log_to_wandb(project)
    if fault:
        assert capsys.readouterr().err == "leaves: W&B takes no artifact: no network\n"
        return
    trained = json.loads((project.results_dir / "train.json").read_text())
    assert (logged.name, logged.id, logged.aliases) == (
        "leaves",
        f"leaves-{trained['fingerprint']}",
        ["latest", "step-600"],
    )
    assert {
        "model.safetensors",
        "README.md",
        "provenance.json",
        "evaluation/metrics.json",
        "export.json",
    } < logged.files
    assert "notes.txt" not in logged.files and logged.metadata["test.accuracy_percent"] > 0
