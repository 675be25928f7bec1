import pytest

from lt25.data import recipes
from lt25.data.prepare import prepare
from lt25.errors import UserError
from tests.data import make


def resolve(task, **recipe):
    return recipes.resolve(make.experiment(None, task, make.dataset(task, {"path": "x"}), **recipe))


@pytest.mark.parametrize("task", list(recipes.DEFAULTS))
def test_defaults_are_filled_in(task):
    assert resolve(task) == recipes.DEFAULTS[task]


def test_what_is_given_is_kept():
    assert resolve("speech_recognition", n_mels=40)["n_mels"] == 40


@pytest.mark.parametrize(
    ("task", "recipe", "message"),
    [
        ("classification", {"layuot": "rows"}, r"prepare.layuot: unknown key: did you mean layout\? Allowed for"),
        ("classification", {"n_mels": 40}, r"prepare.n_mels: unknown key: Allowed for classification: layout, size"),
        ("classification", {"layout": "columns"}, r"prepare.layout: found 'columns', allowed: pixels, rows, series"),
        ("classification", {"size": [8]}, r"prepare.size: found \[8\], expected \[height, width\] in pixels"),
        ("speech_recognition", {"n_mels": 64}, r"prepare.n_mels: found 64, allowed: 40, 80"),
        ("speech_recognition", {"sample_rate": "16k"}, r"prepare.sample_rate: found '16k', expected a number"),
        ("speech_recognition", {"units": "words"}, r"prepare.units: found 'words', allowed: characters"),
        ("speech_recognition", {"alphabet": "ABC"}, r"prepare.alphabet: found 'ABC', expected different characters"),
        ("speech_recognition", {"alphabet": "a|b"}, r"prepare.alphabet: found 'a\|b', expected"),
        (
            "language_modeling",
            {"vocab_size": 200},
            r"prepare.vocab_size: found 200, expected a whole number, at least 257",
        ),
        ("language_modeling", {"vocab_size": True}, r"prepare.vocab_size: found True"),
    ],
)
def test_an_unknown_key_or_value_names_file_key_and_what_is_allowed(task, recipe, message):
    with pytest.raises(UserError, match=r"^config/experiments/tiny.yaml: " + message):
        resolve(task, **recipe)


def test_a_dataset_that_does_not_suit_the_task(tmp_path):
    data = make.dataset("language_modeling", {"path": "x"})
    with pytest.raises(UserError, match=r"tiny.yaml: task: tiny is for language_modeling"):
        prepare(make.experiment(tmp_path, "classification", data))


def test_a_role_that_the_task_needs(tmp_path):
    data = make.dataset("speech_recognition", {"path": "x"}, {"text": "text"})
    with pytest.raises(
        UserError, match=r"config/datasets/tiny.yaml: columns.audio: missing: speech_recognition needs it"
    ):
        prepare(make.experiment(tmp_path, "speech_recognition", data))


def test_a_dataset_that_was_not_acquired(tmp_path):
    data = make.dataset("language_modeling", {"path": "x"})
    with pytest.raises(UserError, match=r"the dataset tiny is not there: run `lt25 download tiny`"):
        prepare(make.experiment(tmp_path, "language_modeling", data))
