"""Training on much text that is tokenized as it goes, killed at random: the tokens are those of an undisturbed run.

    python -m tests.faults.streaming --megabytes 2000 --kills 20

The chain makes the corpus (`lt25.data.builders.repeated_stdlib`) and a tokenizer; a small model trains. Each batch that a step
takes is noted by its hash. Some runs use two processes, so that a checkpoint is taken up by another number of them.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from random import Random

import yaml

from lt25.data.acquire import acquire
from lt25.data.prepare import prepare
from lt25.experiment import Experiment
from lt25.progress import say
from lt25.training.job import write_job
from tests import tiny

BATCH = 8

# Each process notes step, rows and hash of what it trains on, a line a micro-batch.
NOTE = """
import hashlib, os
from lt25.training.trainer import Trainer
plain = Trainer.train_step
def train_step(self, batches):
    def noted():
        for inputs, labels in batches:
            size = int(os.environ["WORLD_SIZE"])
            rows = [tensor.view(8 // size, -1) for tensor in (inputs["input"], labels)]
            with open(os.environ["LT25_NOTES"], "a") as file:
                for at in range(8 // size):
                    row = int(os.environ["RANK"]) * (8 // size) + at
                    content = b"".join(tensor[at].numpy().tobytes() for tensor in rows)
                    file.write(f"{self.step} {row} {hashlib.sha256(content).hexdigest()[:16]}\\n")
            yield inputs, labels
    plain(self, noted())
Trainer.train_step = train_step
"""


def experiment(root: Path, name: str, origin: dict, tokenizer: str, steps: int) -> Experiment:
    """Make an experiment on a corpus, with everything that training needs."""
    corpus = {
        "title": "corpus",
        "licence": "PSF-2.0",
        "tasks": ["language_modeling"],
        "origin": origin,
        "columns": {"text": "text"},
        "splits": {"train": "train", "validation": "test", "test": "test"},
    }
    (root / "config/datasets/corpus.yaml").write_text(yaml.safe_dump(corpus))
    made = tiny.write_experiment(
        root,
        "language_modeling",
        name,
        dataset="corpus",
        prepare={"store": "text", "tokenizer": tokenizer, "vocab_size": 512},
        training={"steps": steps, "seq_len": 128, "local_batch_size": BATCH, "global_batch_size": BATCH},
        checkpoint={"interval": max(steps // 40, 2)},
        metrics={"log_freq": 1000},
    )
    if not made.raw_dir.is_dir():
        acquire(made.dataset, made.raw_dir)
    if not made.processed_dir.is_dir():
        prepare(made)
    write_job(made)
    return made


def seen(notes: Path) -> dict[tuple[int, int], str]:
    """Read what was trained on: step and row -> hash.

    Raises:
        AssertionError: if a step that was trained twice had two batches.
    """
    found: dict[tuple[int, int], str] = {}
    # The last line of a killed process may be half a line.
    for line in notes.read_text().splitlines():
        step, row, *content = line.split(" ")
        if content and len(content[0]) == 16:
            assert found.setdefault((int(step), int(row)), content[0]) == content[0], (
                f"step {step}: another batch than before"
            )
    return found


def trial(root: Path, origin: dict, tokenizer: str, kills: int, steps: int, seed: int) -> int:
    """Train undisturbed, and killed at random; return how many windows were compared.

    Args:
        root: an empty folder, in which this process is.
        origin: of the corpus, as a dataset file says it.
        tokenizer: which is made of it.
        kills: how often the second run is killed.
        steps: of each run.
        seed: of when it is killed, and of which processes train.

    Raises:
        AssertionError: if any window differs.
    """
    tiny.make_project(root)
    (root / "config/datasets").unlink()
    (root / "config/datasets").mkdir()
    random = Random(seed)
    plain, killed = (experiment(root, name, origin, tokenizer, steps) for name in ("plain", "killed"))
    done = tiny.train(plain, before=NOTE, LT25_NOTES=str(root / "plain.txt"))
    assert done.returncode == 0, done.stderr
    expected = seen(root / "plain.txt")
    # Some windows of a text that repeats itself are alike, but few.
    assert len(expected) == steps * BATCH and len(set(expected.values())) > 0.9 * len(expected)

    notes = root / "killed.txt"
    notes.touch()
    for number in range(kills):
        reached = max((step for step, _ in seen(notes)), default=0)
        processes = random.choice((1, 2))
        size = ["--training.local_batch_size", str(BATCH // processes)]
        ranks = tiny.start(killed, *size, processes=processes, before=NOTE, LT25_NOTES=str(notes))
        until = min(reached + random.randrange(1, 2 + 2 * steps // kills), steps - 1)
        while max((step for step, _ in seen(notes)), default=0) < until and all(rank.is_alive() for rank in ranks):
            time.sleep(0.05)
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.join()
        say(
            f"killed {number + 1} of {kills} times, at step {max((step for step, _ in seen(notes)), default=0)} of {steps}"
        )
    done = tiny.train(killed, before=NOTE, LT25_NOTES=str(notes))
    assert done.returncode == 0, done.stderr
    assert seen(notes) == expected, "not the batches of the undisturbed run"
    return len(expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        origin = {"builder": "repeated_stdlib", "megabytes": options.megabytes}
        count = trial(Path(folder), origin, "bpe", options.kills, options.steps, options.seed)
    print(f"{options.megabytes} MB, killed {options.kills} times: {count} windows, all as in the undisturbed run")


if __name__ == "__main__":
    main()
