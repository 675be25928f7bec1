"""Text: a tokenizer, documents as tokens, and windows of them for a model."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from lt25.data.batches import NO_GRID, Batch, Grid, Item, Transforms
from lt25.data.chunks import Chunk
from lt25.data.documents import THREADS, TextCorpus, Tokenized, describe, documents, no_text, tokenize
from lt25.data.examples import Example, Examples
from lt25.data.order import Reading
from lt25.data.packing import PackedDocuments, TokenShards, TokenWindows
from lt25.data.prepared import PreparedSplit, Source
from lt25.data.shards import SplitWriter, in_order
from lt25.data.tokenizer import TRAINED, Tokenizer, borrow, load, train
from lt25.errors import UserError
from lt25.experiment import Dataset
from lt25.progress import track

TRAINED_ON = 200_000_000
"""The tokenizer is trained on so many characters of the training split, its first."""


def write(
    dataset: Dataset, examples: Examples, options: dict[str, Any], writers: dict[str, SplitWriter], folder: Path
) -> dict:
    """Write the splits and the tokenizer; return what `stats.json` says of splits and model.

    Tokens of train are written if ``store`` is tokens; if it is text, only where the texts are.

    Raises:
        UserError: if train is too small for the vocabulary asked for.
    """
    every = [examples, *examples.others]
    if examples.parts:
        examples.parts.mkdir(parents=True, exist_ok=True)
    tokenizer, read = _tokenizer(dataset, every, options)
    tokenizer.save(folder)
    wanted = tuple(split for split in writers if split != "train" or options["store"] == "tokens")
    jobs = [(number, *job) for number, one in enumerate(every) for job in one.chunks(*wanted)]

    def work(job: tuple[int, tuple[int, str, Chunk]]) -> Tokenized:
        at, (number, split, chunk) = job
        kept = examples.parts / f"{at}.npz" if examples.parts else None
        if kept and (found := Tokenized.load(kept)):
            return found
        found = tokenize(every[number], split, chunk, tokenizer, options["documents"], wanted)
        if kept:
            found.save(kept)
        return found

    sizes: dict[str, dict[str, Any]] = {split: {"tokens": 0, "bytes": 0, "characters": 0} for split in writers}
    passed = 0
    done = in_order(work, enumerate(jobs), THREADS, 2 * THREADS)
    for (number, source_split, _), found in zip(
        jobs, track(done, f"{dataset.name}: chunks tokenized", len(jobs)), strict=True
    ):
        name = f"{every[number].dataset.name}: " if examples.others else ""
        if source_split == "train":
            writers["train"].begin_chunk(number)
        for split, fault in found.faults:
            every[number].faults.add(split, fault)
        passed += found.passed
        for split, where, known in found.seen:
            examples.note(split, f"{name}{where}", known)
        for (split, document, where, size, characters), tokens in zip(found.rows, found.tokens, strict=True):
            for key, value in (("bytes", size), ("characters", characters), ("tokens", len(tokens))):
                sizes[split][key] += value
            row = {"id": f"{name}{document}", "path": where, "bytes": size, "tokens": len(tokens)}
            writers[split].add(row, tokens)
    if options["store"] == "text":
        describe(folder, every, options)
        # All of train is read to hold others out of it, otherwise as much as the tokenizer learns from.
        sizes["train"] = {"store": "text", **({"examples": passed} if passed else {"read": read} if read else {})}
    # Padding is never learnt from: the end of a document does for it, as is usual for models of this kind.
    ids = {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.end}
    return {"splits": sizes, "model": {"vocab_size": tokenizer.size, **ids}}


def source(split: PreparedSplit, reading: Reading) -> Source:
    """Return where examples come from: windows of documents, packed anew in every epoch of a training."""
    if not reading.training:
        return TokenWindows(split, reading)
    corpus = TokenShards if split.shards else TextCorpus
    corpora = [corpus(split, number) for number in range(len(reading.probabilities))]
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


def _tokenizer(dataset: Dataset, every: Sequence[Examples], options: dict[str, Any]) -> tuple[Tokenizer, int]:
    """Train the tokenizer, take it from another model, or find it among the parts of a preparation that was stopped.

    Returns:
        The tokenizer, and how many examples of train were read for it.
    """
    kind, parts, read = options["tokenizer"], every[0].parts, 0
    if kind not in TRAINED:
        return borrow(kind, "prepare.tokenizer"), read
    if parts and (parts / "tokenizer_config.json").is_file():
        return load(parts), read

    def texts() -> Iterator[str]:
        nonlocal read
        for example in _in_turns(every):
            read += 1
            yield from (text for _, text in documents(example, options["documents"]))

    told = track(texts(), f"{dataset.name}: documents for the tokenizer")
    tokenizer = train(kind, _first(told, TRAINED_ON), options["vocab_size"])
    # A unigram model leaves out what does not pay, and so has the size that the text gives it.
    if kind == "bpe" and tokenizer.size < options["vocab_size"]:
        every[0].faults.report(read)
        raise UserError(
            f"dataset {dataset.name}: the training split has too little text for a vocabulary of "
            f"{options['vocab_size']}: set prepare.vocab_size to {tokenizer.size} or less"
        )
    if parts:
        tokenizer.save(parts)
    return tokenizer, read


def _first(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _in_turns(every: Sequence[Examples]) -> Iterator[Example]:
    """Yield the examples of train that are texts, of several datasets in turns."""
    for group in zip_longest(*(one.of("train") for one in every)):
        for one, example in zip(every, group, strict=True):
            if example is not None and (fault := no_text(example)):
                one.faults.add("train", fault)
            elif example is not None:
                yield example
