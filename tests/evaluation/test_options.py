import pytest

from lt25.errors import UserError
from lt25.evaluation.options import Options, read_options


def test_nothing_given_means_the_defaults():
    assert read_options({}, "x.yaml") == Options()
    assert Options().headline == "test"
    assert Options(splits=("validation",)).headline == "validation"


def test_values_are_taken_over():
    options = read_options({"splits": ["test"], "max_bytes": 10, "prompts": ["def "]}, "x.yaml")
    assert options == Options(splits=("test",), max_bytes=10, prompts=("def ",))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"batchsize": 3}, "evaluation.batchsize: unknown key"),
        ({"batch_size": 0}, "evaluation.batch_size: expected a whole number above 0, found 0"),
        ({"batch_size": True}, "evaluation.batch_size"),
        ({"splits": []}, "evaluation.splits: expected a list of split names"),
        ({"splits": "test"}, "evaluation.splits"),
        ({"max_bytes": "1MB"}, "evaluation.max_bytes"),
        ({"prompts": [""]}, "evaluation.prompts"),
        ({"new_tokens": -1}, "evaluation.new_tokens"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_its_place(section, said):
    with pytest.raises(UserError) as error:
        read_options(section, "x.yaml")
    assert str(error.value).startswith("x.yaml: " + said)
    assert "\n" not in str(error.value)
