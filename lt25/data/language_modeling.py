"""Text: a byte-level BPE trained on the training split, documents as token ids, and windows of them for a model.

Byte-level BPE with GPT-2's splitting of text into words (Radford et al., 2019): every byte is a token, so that any text can
be written and read back exactly.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt25.data.collation import NO_GRID, Batch, Grid, Item
from lt25.data.examples import Example, Examples
from lt25.data.faults import Fault
from lt25.data.order import Reading
from lt25.data.packing import PackedDocuments, TokenShards, TokenWindows
from lt25.data.prepared import PreparedSplit
from lt25.data.shards import SplitWriter
from lt25.data.sources import Source
from lt25.data.transforms import Transforms
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.files import write_json
from lt25.progress import track

END = "<|endoftext|>"
"""Ends every document, and stands before its first token when text is scored or generated."""

TRAINED_ON = 200_000_000
"""The tokenizer is trained on so many characters of the training split, its first."""

_BATCH = 256


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict:
    """Write the splits and the tokenizer; return what `stats.json` says of splits and model.

    Raises:
        UserError: if train is too small for the vocabulary asked for.
    """
    cut = options["documents"]
    tokenizer = _train_tokenizer(dataset, _texts(examples, cut), options["vocab_size"])
    size = tokenizer.get_vocab_size()
    if size < options["vocab_size"]:
        examples.faults.report(sum(1 for _ in _texts(examples, cut)))
        raise UserError(
            f"dataset {dataset.name}: the training split has too little text for a vocabulary of "
            f"{options['vocab_size']}: set prepare.vocab_size to {size} or less"
        )
    end = tokenizer.token_to_id(END)
    # A text that happens to contain the end mark is tokenized as what it is, text: no byte is lost, no document cut.
    tokenizer.encode_special_tokens = True
    dtype = np.uint16 if size <= 2**16 else np.int32
    sizes = {split: {"tokens": 0, "bytes": 0, "characters": 0} for split in writers}
    documents = _documents(examples, tuple(writers), cut)
    for batch in _batches(track(documents, f"{dataset.name}: documents tokenized")):
        encoded = tokenizer.encode_batch_fast([text for _, _, text in batch])
        for (example, name, text), encoding in zip(batch, encoded, strict=True):
            tokens = np.array([*encoding.ids, end], dtype)
            size_of = {"bytes": len(text.encode()), "characters": len(text), "tokens": len(tokens)}
            for key, value in size_of.items():
                sizes[example.split][key] += value
            row = {"id": name, "path": example.where, **{key: size_of[key] for key in ("bytes", "tokens")}}
            writers[example.split].add(row, tokens)

    tokenizer.encode_special_tokens = False
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            # A batch of prompts is padded in front, so that each is continued from its last token.
            "pad_token": END,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
        },
    )
    # Padding is never learnt from: the end of a document does for it, as is usual for models of this kind.
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return {"splits": sizes, "model": {"vocab_size": size, **ids}}


def source(split: PreparedSplit, reading: Reading) -> Source:
    """Return where examples come from: windows of documents, packed anew in every epoch of a training."""
    if not reading.training:
        return TokenWindows(split, reading)
    corpora = [TokenShards(split, number) for number in range(len(reading.probabilities))]
    return PackedDocuments(corpora, reading.probabilities, reading)


def transforms(split: PreparedSplit, augment: Mapping[str, Any], training: bool) -> Transforms:
    """Return what is done to examples: nothing."""
    return Transforms()


def collate(items: list[Item], grid: Grid = NO_GRID) -> Batch:
    """Pack windows one after another, without padding.

    Args:
        items: as `PackedDocuments` gives them.
        grid: its ``boundaries`` decides how many there are in ``cu_seqlens``, the last ones of empty sequences.

    Returns:
        ``input_ids`` and ``labels`` int64 [1, N]; ``cu_seqlens`` int64 [n + 1], where each sequence begins, and N.
    """
    inputs = [item["input"] for item in items]
    lengths = torch.tensor([len(sequence) for sequence in inputs])
    ends = lengths.cumsum(0)
    starts = torch.cat([item["starts"] + end - length for item, end, length in zip(items, ends, lengths, strict=True)])
    empty = -(len(starts) + 1) % grid.boundaries
    return {
        "input_ids": torch.cat(inputs).long()[None],
        "labels": torch.cat([item["label"] for item in items]).long()[None],
        "cu_seqlens": torch.cat([starts, ends[-1:].expand(1 + empty)]),
    }


def _train_tokenizer(dataset: Dataset, texts: Iterator[str], vocab_size: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        _first(track(texts, f"{dataset.name}: documents for the tokenizer"), TRAINED_ON), trainer
    )
    return tokenizer


def _first(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _texts(examples: Examples, cut: str) -> Iterator[str]:
    return (text for _, _, text in _documents(examples, ("train",), cut))


def _documents(examples: Examples, splits: Sequence[str], cut: str) -> Iterator[tuple[Example, str, str]]:
    """Yield (example, name, text) of every document that is not empty; a document's parts add up to the text."""
    ends = {"paragraphs": re.compile(r".*?(?:\n\s*\n|\Z)", re.DOTALL), "lines": re.compile(r".*?(?:\n|\Z)")}
    for example in examples.of(*splits):
        text = example.roles["text"]
        if not isinstance(text, str):
            message = f"expected a text, found {type(text).__name__}: is columns.text the right column?"
            examples.faults.add(example.split, Fault("input of another kind", example.where, message))
            continue
        if cut == "whole":
            if text:
                yield example, example.id, text
            continue
        parts = (part for part in ends[cut].findall(text) if part)
        yield from ((example, f"{example.id}:{number}", part) for number, part in enumerate(parts))


def _batches(items: Iterator) -> Iterator[list]:
    while batch := list(islice(items, _BATCH)):
        yield batch
