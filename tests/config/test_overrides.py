"""Overrides on the command line: how they are read, and the folder that a variant's results have."""

import pytest

from lt25.config.overrides import merge, note, of_variant, parse, split_arguments, variant
from lt25.errors import UserError


def test_overrides_stand_anywhere_and_in_both_spellings():
    others, overrides = split_arguments(
        ["train", "--optimizer.lr", "1e-3", "digits", "--training.steps=50", "--step", "3"]
    )
    assert others == ["train", "digits", "--step", "3"]
    assert parse(overrides) == {"optimizer.lr": 1e-3, "training.steps": 50}


def test_values_are_yaml_and_a_mapping_sets_several_keys():
    parsed = parse(
        ["evaluation.splits=[test]", "model.bidirectional=false", "training.dataloader={num_workers: 2}", "a.b=-1"]
    )
    assert parsed == {
        "evaluation.splits": ["test"],
        "model.bidirectional": False,
        "training.dataloader.num_workers": 2,
        "a.b": -1,
    }


@pytest.mark.parametrize("arguments", [["--optimizer.lr"], ["--optimizer.lr", "--training.steps", "3"]])
def test_an_override_without_a_value_is_one_line(arguments):
    with pytest.raises(UserError, match=r"optimizer.lr: no value: write --optimizer.lr VALUE"):
        split_arguments(arguments)


def test_a_value_that_is_no_yaml_names_the_key():
    with pytest.raises(UserError, match=r"command line: evaluation.splits: not a YAML value"):
        parse(["evaluation.splits=[test"])


def test_merging_leaves_what_was_given_as_it_was():
    written = {"optimizer": {"lr": 1.0}}
    assert merge(written, {"optimizer.lr": 2.0, "debug.seed": 1}) == {"optimizer": {"lr": 2.0}, "debug": {"seed": 1}}
    assert written == {"optimizer": {"lr": 1.0}}
    with pytest.raises(UserError, match=r"optimizer.lr.x: lr is no section"):
        merge(written, {"optimizer.lr.x": 2.0})


def test_a_variant_is_named_after_its_sorted_overrides():
    assert variant({}) == ""
    assert variant({"training.steps": 50, "optimizer.lr": 1e-3}) == "@optimizer.lr=0.001+training.steps=50"


def test_what_a_folder_should_not_hold_is_replaced_and_names_stay_different():
    one, other = variant({"init.from": "config/models/a"}), variant({"init.from": "config_models/a"})
    assert one.startswith("@init.from=config_models_a-")
    assert one != other
    assert "," not in variant({"prepare.size": [8, 8], "optimizer.lr": 1e-3})
    bases = ("config/models/a.json", "models/a.json", "a.json", "a", "config/models/b/a.json")
    assert len({variant({"model.base": base}) for base in bases}) == len(bases)
    assert variant({"model.base": "config/models/a.json"}) == "@model.base=a"
    long = variant({f"section.key{n}": n for n in range(40)})
    assert len(long) < 140
    assert long != variant({f"section.key{n}": n for n in range(41)})


@pytest.mark.parametrize(
    "overrides",
    [
        {"optimizer.lr": 1e-3, "training.steps": 50},
        {"optimizer.name": "Adam"},
        {"model.base": "config/models/gla_1.3b.json", "debug.seed": 3},
        {"model.bidirectional": False, "lr_scheduler.total_steps": None},
    ],
)
def test_a_variants_name_is_read_back(tmp_path, overrides):
    name = variant(overrides).removeprefix("@")
    assert of_variant(name, tmp_path) == overrides


@pytest.mark.parametrize(
    "overrides", [{"prepare.size": [8, 8]}, {"activation_checkpoint.selective_ac_option": "3"}, {"a.b": "x,c.d=1"}]
)
def test_a_name_that_was_shortened_is_read_from_the_folder_of_its_results(tmp_path, overrides):
    name = variant(overrides).removeprefix("@")
    with pytest.raises(UserError, match=r"no such variant of an experiment: write --SECTION.KEY VALUE"):
        of_variant(name, tmp_path / name)
    note(overrides, tmp_path / name)
    assert of_variant(name, tmp_path / name) == overrides


@pytest.mark.parametrize("name", ["", "lr=1", "optimizer.lr", "optimizer.lr=", "../optimizer.lr=1"])
def test_what_is_no_variants_name_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="no such variant"):
        of_variant(name, tmp_path)
