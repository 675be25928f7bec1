"""A task of one's own: predict a number from a series.

Name the package in config/config.yaml, and an experiment can say ``task: regression``:

    plugins: [examples/regression]

The model is a classifier with one output, so every family that has one can be trained. Numbers are learned as they are: bring
them near 0 to 1 in the data, and write no -100, which stands for a label that is missing.
"""

from collections.abc import Mapping
from typing import Any

from lt25.tasks import FAULTY, Task, evaluation_keys, register


def _row_complaint(prepare: Mapping[str, Any], augment: Mapping[str, Any], row: Any) -> str | None:
    """Say what is wrong with the first example of a split: `lt25 check` asks, before anything runs."""
    if row.kind("input") != "series":
        return f"columns.input: found {row.kind('input')}, expected a list of numbers: name another column"
    try:
        float(row.roles["label"])
    except (TypeError, ValueError):
        return f"columns.label: found {row.roles['label']!r:.40}, expected a number: name another column"
    return None


register(
    Task(
        name="regression",
        title="Regression",
        description="a model that predicts a number from a series",
        columns=("input", "label"),
        main_input="input_features",
        auto_model="AutoModelForSequenceClassification",
        pipeline_tag="time-series-forecasting",
        prefix="numbers",
        unit="positions",
        usage="""\
import lt25
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("{folder}")
extractor = AutoFeatureExtractor.from_pretrained("{folder}")
print(float(model(**extractor(series, return_tensors="pt")).logits))""",
        prepare={"faulty": FAULTY},
        evaluation=evaluation_keys(),
        decided=("num_labels", "input_size"),
        row_complaint=_row_complaint,
        package=__name__,
    )
)
