"""Recall: sequences of symbols, some of which a language model is asked for. A token is a symbol."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.batches import IGNORE, NO_GRID, Batch, Grid, Item, Transforms
from lt25.data.examples import Examples
from lt25.data.faults import Fault
from lt25.data.order import Reading
from lt25.data.prepared import PreparedExamples, PreparedSplit
from lt25.data.shards import SplitWriter
from lt25.experiment import Dataset
from lt25.files import write_json
from lt25.progress import track

END, UNKNOWN = "<|end|>", "<|unknown|>"


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict[str, Any]:
    """Write the splits, and a tokenizer of the training split's symbols; see `lt25.tasks`."""
    symbols = {symbol for example in examples.of("train") for symbol in str(example.roles["text"]).split()}
    ids = {symbol: number for number, symbol in enumerate([END, UNKNOWN, *sorted(symbols, key=_natural)])}
    asked_of = dict.fromkeys(writers, 0)
    for example in track(examples.of(*writers), f"{dataset.name}: sequences read"):
        found = str(example.roles["text"]).split()
        places = np.asarray(example.roles["asked"], np.int64)
        try:
            tokens = np.array([ids[symbol] for symbol in found], np.int32)
        except KeyError as error:
            message = f"expected symbols of the training split, found {error.args[0]}"
            examples.faults.add(example.split, Fault("an unusable label", example.where, message))
            continue
        if places.ndim != 1 or not len(places) or places.min() < 1 or places.max() >= len(tokens):
            message = f"asked: expected places from 1 to {len(tokens) - 1}, found {places.tolist()}"
            examples.faults.add(example.split, Fault("an unusable label", example.where, message))
            continue
        # What a step is to say is the symbol after it.
        labels = np.full(len(tokens), IGNORE, np.int32)
        labels[places - 1] = tokens[places]
        row = {"id": example.id, "difficulty": int(example.roles["difficulty"]), "asked": len(places)}
        writers[example.split].add(row, tokens, labels)
        asked_of[example.split] += len(places)
    _write_tokenizer(folder, ids)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return {"splits": {split: {"asked": count} for split, count in asked_of.items()},
            "model": {"vocab_size": len(ids), **special}}  # fmt: skip


def _natural(symbol: str) -> list[tuple[int, str]]:
    """Sort k2 before k10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", symbol)]


def _write_tokenizer(folder: Path, ids: Mapping[str, int]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(dict(ids), UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(END, special=True), AddedToken(UNKNOWN, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "padding_side": "left"}
    write_json(folder / "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": False})


def source(split: PreparedSplit, reading: Reading) -> PreparedExamples:
    """Return where a training run's examples come from; ``reading`` is of no account."""
    return PreparedExamples(split)


def transforms(split: PreparedSplit, augment: Mapping[str, Any], training: bool) -> Transforms:
    """Return what is done to examples: nothing."""
    return Transforms()


def collate(items: list[Item], grid: Grid = NO_GRID) -> Batch:
    """Pad sequences on the right, which a causal model does not see.

    Args:
        items: ``input`` and ``label``, int [T] each.
        grid: its ``time`` decides to how many steps they are padded.

    Returns:
        ``input_ids`` int64 [B, T], 0 where there is padding, and ``labels`` int64 [B, T], -100 where nothing is asked.
    """
    steps = max(len(item["input"]) for item in items)
    steps += -steps % grid.time
    tokens = torch.zeros(len(items), steps, dtype=torch.int64)
    labels = torch.full_like(tokens, IGNORE)
    for row, item in enumerate(items):
        tokens[row, : len(item["input"])] = item["input"]
        labels[row, : len(item["label"])] = item["label"]
    return {"input_ids": tokens, "labels": labels}
