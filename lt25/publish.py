"""``lt25 push-to-hub``: an exported and evaluated model as a repository of the Hugging Face Hub.

Beside the files of the export, which are compared with their record first, go the card with licence and results
(``model-index``), what was measured (``evaluation/metrics.json``), where the model is from (``provenance.json``), and for a
dataset of the Hub ``.eval_results/lt25.yaml``. Nothing is sent without ``--yes``.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lt25 import files
from lt25.checkpoints.card import LIMITS, where_measured
from lt25.errors import UserError
from lt25.experiment import Experiment, load_experiment
from lt25.progress import say
from lt25.provenance import chain
from lt25.report.headline import size
from lt25.report.tracked import headline_numbers
from lt25.tasks import TASKS
from lt25.training.run import name_run

_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def push_to_hub(name: str, repository: str, licence: str | None = None, yes: bool = False) -> list[str]:
    """Show what would be sent to the Hub, and with ``yes`` send it.

    Args:
        name: the experiment, evaluated since it was exported.
        repository: owner/name on the Hub; a new one is private.
        licence: of the model, as the Hub abbreviates it: "apache-2.0".
        yes: whether to send.

    Returns:
        What was or would be sent, lines for the terminal.

    Raises:
        UserError: if the model is not exported or not evaluated, a file is not as it was written, or the Hub refuses.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"lt25 push-to-hub: found {repository}, expected a repository of the Hub, owner/name")
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(
            f"--licence: found {licence}, expected the Hub's abbreviation of one: apache-2.0, mit, cc-by-4.0"
        )
    if yes and licence is None:
        raise UserError(
            "lt25 push-to-hub: --yes needs --licence: say on what terms others may use the model: apache-2.0"
        )
    experiment = load_experiment(name)
    with tempfile.TemporaryDirectory(prefix="lt25-hub-") as folder:
        exported = write_repository(experiment, Path(folder), licence)
        sent = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        lines = [f"  {size(path.stat().st_size):>9}  {path.relative_to(folder)}" for path in sent]
        if yes:
            address = _send(Path(folder), repository, f"{experiment.name}, step {exported['step']}")
            return [f"{address}: is written, from {experiment.name}, step {exported['step']}:", *lines]
    data = "; ".join(f"{one.title}: {one.licence}" for one in experiment.datasets)
    return [
        f"{repository}: would be written, from {experiment.name}, step {exported['step']}:",
        *lines,
        f"licence: {licence or 'none yet, and --yes needs one: --licence apache-2.0'}; of the data: {data}",
        "Nothing has been sent: --yes does it, with the token of HF_TOKEN or of `hf auth login`.",
    ]


def log_to_wandb(experiment: Experiment) -> None:
    """Log an evaluated model to the run of its training at Weights & Biases, if that is switched on.

    The artifact is called as the experiment is, and holds the files that `push_to_hub` would send, under the same names. W&B
    being out of reach is said, and no error: the results are on the disk.
    """
    if not (experiment.job["metrics"]["enable_wandb"] or os.environ.get("WANDB_PROJECT")):
        return
    import wandb

    trained = files.read_record(experiment.results_dir / "train.json", experiment.commands("train"))
    # Characters that the name of an artifact may have.
    name = re.sub(r"[^\w.-]", "-", experiment.name, flags=re.ASCII)[-128:]
    name_run(experiment.name, trained["fingerprint"])
    os.environ.setdefault("WANDB_DATA_DIR", str(experiment.results_dir / "wandb"))
    with tempfile.TemporaryDirectory(prefix="lt25-wandb-") as repository:
        exported = write_repository(experiment, Path(repository), None)
        numbers = {f"{split}.{metric}": value for split, (metric, value) in headline_numbers(experiment).items()}
        try:
            with wandb.init(dir=experiment.results_dir) as run:
                artifact = wandb.Artifact(name, type="model", metadata=numbers)
                artifact.add_dir(repository, skip_cache=True)
                run.log_artifact(artifact, aliases=["latest", f"step-{exported['step']}"])
        except (wandb.Error, OSError) as error:
            say(f"{experiment.name}: W&B takes no artifact: {_first(error)}")


def write_repository(experiment: Experiment, folder: Path, licence: str | None) -> dict[str, Any]:
    """Write the files of a repository into an empty folder.

    Args:
        experiment: whose model it is.
        folder: where they go.
        licence: the model's, for the card; None for none.

    Returns:
        The model's ``export.json``.

    Raises:
        UserError: as `push_to_hub`.
    """
    model = experiment.results_dir / "hf"
    if not (model / "export.json").is_file():
        raise UserError(f"{model}: no exported model: run `{experiment.commands('export')}` first")
    exported = files.believe(model / "export.json", f"lt25 export {experiment.arguments}")
    numbers = headline_numbers(experiment)
    for name in ("export.json", *exported["files"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # A card is written anew; the others are linked to where they can be, since weights are large.
        if name != "README.md":
            (folder / name).symlink_to(model / name)
    (folder / "README.md").write_text(_card((model / "README.md").read_text(), experiment, numbers, licence))
    (folder / "evaluation").mkdir()
    shutil.copy(experiment.evaluation_dir / "metrics.json", folder / "evaluation")
    links = [{"what": link.what, "record": str(link.path), **_known(link.said)} for link in chain(model)]
    files.write_json(folder / "provenance.json", {"chain": links})
    if results := _results(experiment, numbers, links):
        (folder / ".eval_results").mkdir()
        (folder / ".eval_results" / "lt25.yaml").write_text(yaml.safe_dump(results, sort_keys=False))
    return exported


def _card(text: str, experiment: Experiment, numbers: Mapping[str, tuple[str, float]], licence: str | None) -> str:
    """Return a model card with the licence and the results in the metadata, and the results in a table."""
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    task, dataset = TASKS[experiment.task], experiment.dataset
    results = [
        EvalResult(
            task_type=task.pipeline_tag,
            task_name=task.title,
            dataset_type=dataset.origin.get("hub", dataset.name),
            dataset_name=dataset.title,
            dataset_split=split,
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=value,
        )
        for split, (metric, value) in numbers.items()
    ]
    _, front, body = text.split("---\n", 2)
    metadata = {
        **yaml.safe_load(front),
        **({"license": licence} if licence else {}),
        "model-index": eval_results_to_model_index(experiment.name, results),
    }
    rows = "\n".join(
        f"| {split} | {metric.replace('_', ' ')} | {value:g} |" for split, (metric, value) in numbers.items()
    )
    body = body.replace(
        where_measured(experiment),
        "Everything that was measured stands in `evaluation/metrics.json`, and where the model is from in `provenance.json`.",
    )
    table = f"## What it reaches\n\n| split | | |\n| --- | --- | --- |\n{rows}\n\n"
    body = body.replace(f"{LIMITS}\n", f"{table}{LIMITS}\n")
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n{body}"


def _results(
    experiment: Experiment, numbers: Mapping[str, tuple[str, float]], links: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the entries of ``.eval_results``, which are about datasets of the Hub; none for another dataset."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    hub = experiment.dataset.origin.get("hub", "")
    if "/" not in hub:
        return []
    source = next((link for link in links if link["what"] == "source"), {})
    revision = source.get("revision") if re.fullmatch("[0-9a-f]{40}", str(source.get("revision"))) else None
    entries = [
        EvalResultEntry(dataset_id=hub, task_id=split, value=value, dataset_revision=revision, notes=metric)
        for split, (metric, value) in numbers.items()
    ]
    return eval_result_entries_to_yaml(entries)


def _known(said: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({name: value for name, value in said.items() if value is not None}, default=str))


def _send(folder: Path, repository: str, message: str) -> str:
    """Upload a folder; return the repository's address."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    hub = HfApi()
    say(f"sending to {hub.endpoint}/{repository}")
    try:
        address = hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"lt25: {message}")
    except LocalTokenNotFoundError:
        raise UserError("lt25 push-to-hub: no token of the Hub: set HF_TOKEN, or run `hf auth login`") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = "the token may not write there, or is no longer valid" if status in (401, 403) else _first(error)
        raise UserError(f"lt25 push-to-hub: {hub.endpoint} refuses {repository} ({status}): {why}") from None
    except HFValidationError as error:
        raise UserError(f"lt25 push-to-hub: {repository}: {_first(error)}") from None
    except (httpx.HTTPError, OSError) as error:
        raise UserError(f"lt25 push-to-hub: {hub.endpoint} does not answer: {_first(error)}: try again") from None
    return str(address)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
