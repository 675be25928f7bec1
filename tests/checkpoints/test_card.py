"""What a model card says of how a model came about."""

import pytest

from lt25.checkpoints.card import path_of, steps_of


@pytest.mark.parametrize(
    ("path", "steps", "told"),
    [
        ([(0, 40)], 40, "trained to step 40 of a schedule of 40 steps"),
        ([(0, 40)], 25, "trained to step 25 of a schedule of 40 steps"),
        ([(0, 40), (40, 80)], 80, "trained to step 40 of a schedule of 40 steps, then continued to 80"),
        (
            [(0, 40), (30, 80)],
            60,
            "trained to step 30 of a schedule of 40 steps, then continued to step 60 of a schedule of 80 steps",
        ),
    ],
)
def test_a_path_is_told_segment_by_segment(path, steps, told):
    segments = [{"from": start, "steps": total} for start, total in path]
    assert path_of({"steps": steps, "path": segments}) == told


def test_the_best_step_says_that_it_is_and_by_what():
    best = {"step": 5, "metric": "accuracy", "value": 0.98123}
    assert steps_of({"steps": 12}, [12]) == "12 of 12"
    assert steps_of({"steps": 12, "best": None}, [12]) == "12 of 12"
    assert steps_of({"steps": 12, "best": best}, [5]) == "5 of 12, the best on the validation split (accuracy 0.9812)"
    # Another kept checkpoint of the same training.
    assert steps_of({"steps": 12, "best": best}, [8]) == "8 of 12"
    assert steps_of({"steps": 12}, [4, 8, 12]) == "the mean of 4, 8, 12 of 12"
