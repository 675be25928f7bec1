"""The model card: what a model is, how to load it, what it was trained on and how."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lt25.experiment import Experiment
from lt25.tasks import TASKS


def path_of(trained: Mapping[str, Any]) -> str:
    """Say along which schedules a model was trained: "trained to step 40 of a schedule of 40 steps, then continued to 80".

    Args:
        trained: a ``train.json``.
    """
    path = trained.get("path") or [{"from": 0, "steps": trained["steps"]}]
    ends = [*(segment["from"] for segment in path[1:]), trained["steps"]]
    told = []
    for segment, end in zip(path, ends, strict=True):
        to = (
            f"step {end} of a schedule of {segment['steps']} steps" if not told or end != segment["steps"] else str(end)
        )
        told.append(f"{'then continued' if told else 'trained'} to {to}")
    return ", ".join(told)


def device_of(trained: Mapping[str, Any]) -> str:
    """Say on what a model was trained: "NVIDIA H100, 2 processes"; ``trained`` is a ``train.json``."""
    processes = trained["world_size"]
    return f"{trained['device']}, {processes} {'process' if processes == 1 else 'processes'}"


def steps_of(trained: Mapping[str, Any], steps: Sequence[int]) -> str:
    """Say which step a model is from: "5 of 12", or "5 of 12, the best on the validation split (accuracy 0.9812)".

    Args:
        trained: a ``train.json``.
        steps: the model's; of several it is the mean: "the mean of 4, 8, 12 of 12".
    """
    if len(steps) > 1:
        return f"the mean of {', '.join(f'{step:,}' for step in steps)} of {trained['steps']:,}"
    (step,) = steps
    said, best = f"{step:,} of {trained['steps']:,}", trained.get("best")
    if best and best["step"] == step:
        said += f", the best on the validation split ({best['metric']} {best['value']:.4f})"
    return said


LIMITS = "## What it is not for"
"""The heading of a card's last section."""


def where_measured(experiment: Experiment) -> str:
    """Return the sentence of a card that says where the model's numbers are."""
    return f"Its measured quality stands in `results/{experiment.name}/evaluation/metrics.json`."


def model_card(
    experiment: Experiment,
    trained: Mapping[str, Any],
    stats: Mapping[str, Any],
    steps: Sequence[int],
    with_code: bool = False,
) -> str:
    """Return the Markdown of a model's ``README.md``, with the metadata that the Hub reads.

    Args:
        experiment: whose model it is.
        trained: its ``train.json``.
        stats: its data's ``stats.json``.
        steps: the exported step, or those whose mean is exported.
        with_code: whether the modelling code stands beside the weights.
    """
    task = TASKS[experiment.task]
    dataset, training, optimizer = experiment.dataset, experiment.job["training"], experiment.job["optimizer"]
    front = {
        "library_name": "transformers",
        "pipeline_tag": task.pipeline_tag,
        "tags": ["lt25", experiment.model["model_type"]],
        **(
            {"datasets": hub}
            if (hub := [one.origin["hub"] for one in experiment.datasets if "hub" in one.origin])
            else {}
        ),
    }
    sizes = "; ".join(
        f"{split}: {', '.join(f'{value:,.0f} {name}' for name, value in numbers.items() if isinstance(value, int | float))}"
        for split, numbers in stats["splits"].items()
    )
    code = trained.get("code")
    local, total = training["local_batch_size"], training["global_batch_size"]
    settings = {
        "steps": steps_of(trained, steps),
        "how it came about": path_of(trained),
        **(
            {"audio in a batch": f"{seconds:.0f} s, padding counted"}
            if (seconds := trained.get("batch_seconds"))
            else {"examples a step": total if total > 0 else f"{local} in each process"}
        ),
        "optimizer": optimizer["name"],
        "highest learning rate": optimizer["lr"],
        "weight decay": optimizer["weight_decay"],
        "device": device_of(trained),
        "seed": trained["identity"]["debug"]["seed"],
        "fingerprint of the run": trained["fingerprint"],
        "fingerprint of the data": stats["fingerprint"],
        **({"code": f"commit {code['commit']}{', changed' if code['dirty'] else ''}"} if code else {}),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    versions = ", ".join(f"{name} {number}" for name, number in trained["versions"].items())
    use = task.usage.replace("{folder}", f"results/{experiment.name}/hf")
    without = (
        f"\nWithout lt25, the code beside the weights computes the same, slowly: `{task.auto_model}.from_pretrained(..., "
        "trust_remote_code=True)`, read it before.\n"
        if with_code
        else ""
    )
    of = f"the experiment `{experiment.parent}`" if experiment.parent else f"`{experiment.init_from}`"
    start = f" It started from the weights of {of}." if experiment.init_from else ""
    again = f"`snakemake results/{experiment.name}/hf/config.json` makes"
    if experiment.overrides:
        again = f"`lt25 train {experiment.arguments}` and `lt25 export {experiment.arguments}` make"
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# {experiment.name}

This is {task.description} with {trained["parameters"]:,} parameters, of the type `{experiment.model["model_type"]}`,
trained by lt25.{start}

## How to load it

```python
{use}
```
{without}
## What it was trained on

{dataset.title} (licence: {dataset.licence}{f"; {dataset.homepage}" if dataset.homepage else ""}).
{sizes[0].upper()}{sizes[1:]}. Neither the validation nor the test split was seen in training.

## How it was trained

| | |
| --- | --- |
{rows}

Made with {versions}. The experiment file is `{experiment.path}`; {again} the model again.
{where_measured(experiment)}

{LIMITS}

It has been trained on the data named above and nothing else, and it has not been examined for bias or safety.
"""
