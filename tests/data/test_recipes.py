"""The recipes for large speech data: their padding, and their first steps on audio of the lengths that the real data has."""

import json
import time

import numpy as np
import pytest
import yaml

from lt25.data.acquire import acquire
from lt25.data.audio import frame_count
from lt25.data.audio_augmentation import played_length
from lt25.data.batches import Transforms
from lt25.data.order import Share, epoch_by_length, length_unit
from lt25.data.prepare import prepare
from lt25.experiment import load_experiment
from lt25.training.job import write_job
from tests import tiny
from tests.data import make

# Of train.clean.100, train.clean.360 and train.other.500 most utterances last 12 to 16 s, some much less, few more.
LONGEST = {"librispeech-100": 24.5, "librispeech-960": 35.2, "peoples-speech": 29.9}
WORDS = (
    "THE",
    "OF",
    "AND",
    "TO",
    "A",
    "IN",
    "THAT",
    "WAS",
    "HER",
    "WITH",
    "AS",
    "YOU",
    "BUT",
    "SOMETHING",
    "THEMSELVES",
)


def seconds(rng, count, longest):
    """Return lengths in seconds: LibriSpeech's, nearly; one of them is the longest."""
    lengths = np.where(rng.random(count) < 0.65, rng.normal(14.5, 1.3, count), rng.uniform(1.5, 16, count))
    return np.minimum([longest, *lengths[1:]], longest)


def as_read(experiment, frames):
    """Return how many frames utterances have once they are played as the experiment has it."""
    rate, augment = experiment.prepare["sample_rate"], experiment.augment
    if augment.get("speed") is None:
        return frames

    def length(index, generator):
        return frame_count(played_length(int(frames[index]) * rate // 100, generator, augment, rate), rate)

    return Transforms(length=length).lengths(range(len(frames)), 0, 0)


@pytest.mark.parametrize("name", LONGEST)
def test_less_than_a_tenth_of_a_batch_is_padding(name):
    experiment = load_experiment(name)
    training = experiment.job["training"]
    local, total = training["local_batch_size"], training["global_batch_size"]
    share = Share(local, max(total // local, 1), batch_steps=100 * round(training["batch_seconds"]))
    frames = (100 * seconds(np.random.default_rng(0), 50_000, LONGEST[name])).astype(np.int64)
    began = time.process_time()
    played, unit = as_read(experiment, frames), length_unit(frames)
    taken = (time.process_time() - began) / len(frames)
    batches = [played[batch] for step in epoch_by_length(played, unit, share, 0, 0) for batch in step]
    # As a recorded step has them.
    padded = np.array([len(batch) * -(-batch.max() // unit) * unit for batch in batches])
    assert played.sum() == sum(batch.sum() for batch in batches)
    print(f"{name}: {1 - played.sum() / padded.sum():.1%} padding, lengths drawn in {1e6 * taken:.1f} µs an utterance")
    assert 1 - played.sum() / padded.sum() < 0.05
    assert 0.97 * share.batch_steps < padded.mean() and padded.max() <= share.batch_steps


@pytest.mark.slow
@pytest.mark.parametrize("name", LONGEST)
def test_the_first_steps_of_a_recipe(tmp_path, monkeypatch, name):
    """A tiny model in place of the recipe's, everything else as it is. Slow: minutes of audio are prepared, and trained on."""
    root, recipe = tiny.make_project(tmp_path), tiny.REPOSITORY / f"config/experiments/{name}.yaml"
    monkeypatch.chdir(root)
    experiment = yaml.safe_load(recipe.read_text())
    experiment["model"] |= {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    experiment["training"] |= {"steps": 3, "local_batch_size": 2, "global_batch_size": 4, "batch_seconds": 60}
    experiment["training"]["dataloader"] = {"num_workers": 0}
    experiment["lr_scheduler"]["warmup_steps"] = 1
    experiment["validation"]["freq"], experiment["checkpoint"]["interval"] = 3, 3
    (root / "config/experiments" / recipe.name).write_text(yaml.safe_dump(experiment))
    loaded, rng = load_experiment(name), np.random.default_rng(0)

    def published(split, count, longest):
        for number, length in enumerate(seconds(rng, count, longest)):
            said = " ".join(rng.choice(WORDS, max(1, int(2.7 * length))))
            audio = {"bytes": make.audio(rng, float(length)), "path": f"{number}.flac"}
            yield {"audio": audio, "text": said, "speaker_id": number % 5, "id": f"{split}-{number}"}

    for split, pattern in loaded.dataset.origin["files"].items():
        rows = published(split, *(10, LONGEST[name]) if split.startswith("train") else (3, 9))
        make.parquet(root / "mirror" / loaded.dataset.origin["hub"] / pattern.replace("*", "0000"), list(rows))
    acquire(loaded.dataset, loaded.raw_dir, root / "mirror")
    prepare(loaded)
    stats = json.loads((loaded.processed_dir / "stats.json").read_text())
    assert not any(fact.get("excluded") for fact in stats["splits"].values())
    write_job(loaded)
    done = tiny.train(loaded, processes=1)
    assert done.returncode == 0, done.stderr
    lines = (next(loaded.results_dir.glob("runs/*")) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses and all(np.isfinite(losses))
    assert any("validation" in record for record in records)
