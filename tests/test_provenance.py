"""The chain of a model that started from another; of one trained from scratch see tests/workflow/test_chain.py."""

from lt25 import cli
from lt25.files import write_record
from tests import tiny


def export(root, name, start=None, fingerprint=None):
    """Write the records of a trained and exported model; return the fingerprint that those have who start from it."""
    results = root / "results" / name
    (results / "hf").mkdir(parents=True)
    (results / "hf/model.safetensors").write_bytes(name.encode())
    trained = {
        "fingerprint": f"run-{name}",
        "versions": {"lt25": "0"},
        "identity": {"debug": {"seed": 0}},
        "init_from": start,
        "device": "CPU",
        "world_size": 1,
    }
    write_record(results / "train.json", trained)
    exported = {"experiment": name, "step": 4, "fingerprint": f"run-{name}-4", "dataset": "digits", "data": "gone"}
    write_record(results / "hf/export.json", exported, [results / "hf/model.safetensors"])
    return exported["fingerprint"]


def test_a_model_is_followed_to_those_that_it_started_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    foreign = tmp_path / "data/models/hub/base"
    foreign.mkdir(parents=True)
    (foreign / "model.safetensors").write_bytes(b"0")
    published = {"from": "hub/base", "revision": "abc", "fingerprint": "of-the-hub"}
    write_record(foreign / "export.json", published, [foreign / "model.safetensors"])
    export(tmp_path, "last", export(tmp_path, "first", "of-the-hub"))

    assert cli.main(["provenance", "last"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith(("model", "training"))] == [
        "model: results/last/hf/export.json",
        "training: results/last/train.json",
        "model: results/first/hf/export.json",
        "training: results/first/train.json",
        "model: data/models/hub/base/export.json",
    ]
    assert {"    started from: run-first-4", "    from: hub/base", "    revision: abc"} <= set(told)

    assert cli.main(["verify", "last"]) == 0
    (foreign / "model.safetensors").write_bytes(b"1")
    assert cli.main(["verify", "last"]) == 1
    assert "WRONG   data/models/hub/base/export.json: model.safetensors has changed" in capsys.readouterr().out
    assert cli.main(["provenance", str(foreign)]) == 2
    assert "comes from hub/base, revision abc, and not from lt25" in capsys.readouterr().err


def test_a_model_whose_start_was_exported_anew_says_which_one_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    export(tmp_path, "first")
    export(tmp_path, "last", "run-first-2")
    assert cli.main(["provenance", "last"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == ["model: results (not here, or made anew since)", "    fingerprint: run-first-2"]
