"""Perplexity and bits per byte of a causal language model, and texts that it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from lt25.evaluation import harness
from lt25.evaluation.baselines import unigram_bits_per_byte
from lt25.evaluation.compression import compressors
from lt25.evaluation.interval import bootstrap_interval
from lt25.evaluation.style import ACCENT, SECOND, SMALL, THIRD, axes, figure_of, ticks
from lt25.experiment import project_root
from lt25.generation.sampling import Sampling
from lt25.generation.writer import Generator, encode
from lt25.models.families import FAMILIES, Family, window_of
from lt25.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How many tokens, over all documents of a batch, are read at once: on a CPU few, so that their logits stay near the cache.
TOKENS_PER_STEP = {"cpu": 2048, "cuda": 32768}
PROMPT_CHARACTERS = 160


def batches_of_like_length(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Cut documents, longest first, into batches in which padding stays below a quarter.

    lengths: tokens of each document. A batch holds at most `batch_size` documents and none shorter than three quarters
    of its longest, unless that is short itself. Returns lists of positions in `lengths`, together each position once.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = batches and len(batches[-1]) < batch_size and (lengths[i] >= 0.75 * longest or longest <= 256)
        if fits:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def spans(length: int, window: int | None) -> list[tuple[int, int, int]]:
    """Cut a document into what a model reads at a time.

    Args:
        length: its tokens.
        window: how many tokens the model reads; None for as many as there are.

    Returns:
        (begin, counted, end) of each span: it reads the tokens before [begin, end) of those to be predicted and is asked for
        [counted, end), which together are all, each once. Spans overlap by half, so that at least half a window is in sight of
        every token but the first ones.
    """
    if window is None or length <= window:
        return [(0, 0, length)]
    stride = max(window // 2, 1)
    later = range(stride, length - window + stride, stride)
    return [(0, 0, window), *((begin, begin + window - stride, min(begin + window, length)) for begin in later)]


@torch.inference_mode()
def token_nats(
    model: Any, documents: Sequence[torch.Tensor], start: int, batch_size: int, what: str
) -> list[np.ndarray]:
    """-log p of each token of each document, all before it in sight that the model's attention is made for.

    The model reads a document in pieces and hands its state (`past_key_values`) from piece to piece, so that memory does
    not grow with the document; the first token is predicted from `start`. Documents share a batch, padded on the right,
    where padding cannot reach back into a causal model. A model of a family without such a state reads each document at
    once, and only its logits are computed in pieces, where its head is a product (`Family.linear_head`). One whose
    attention has an end (`Family.window`) reads `spans`, each for itself.

    documents: int tensors [T_i], T_i > 0. Returns float32 arrays [T_i], in nats, in the same order. Raises UserError if a
    model of a family with a state, or of an unknown one, hands on none.
    """
    nats = [np.zeros(len(document), dtype=np.float32) for document in documents]
    family = FAMILIES.get(model.config.model_type)
    window = window_of(model.config)
    texts = [torch.nn.functional.pad(document.long(), (1, 0), value=start) for document in documents]
    read = [(i, *span) for i, document in enumerate(documents) for span in spans(len(document), window)]
    batches = batches_of_like_length([end - begin for _, begin, _, end in read], batch_size)
    for batch in track(batches, what, len(batches)):
        parts = [read[number] for number in batch]
        tokens = torch.nn.utils.rnn.pad_sequence(
            [texts[i][begin : end + 1] for i, begin, _, end in parts], batch_first=True, padding_value=start
        ).to(model.device)
        rows, length = tokens.shape[0], tokens.shape[1] - 1
        piece = max(TOKENS_PER_STEP[model.device.type] // rows, 32)
        state, whole, head = None, None, torch.nn.Identity()
        if family is not None and not family.state:
            whole, head = _read_at_once(model, family, tokens[:, :-1])
        for first in range(0, length, piece):
            last = min(first + piece, length)
            if whole is not None:
                logits = head(whole[:, first:last])
            else:
                output = model(input_ids=tokens[:, first:last], past_key_values=state, use_cache=True)
                state, logits = output.past_key_values, output.logits
                if state is None and last < length:
                    raise UserError(
                        f"{type(model).__name__}: no state in past_key_values: cannot evaluate long documents"
                    )
            losses = cross_entropy(
                logits.float().flatten(0, 1), tokens[:, first + 1 : last + 1].flatten(), reduction="none"
            )
            losses = losses.view(rows, last - first).cpu().numpy()
            for row, (i, begin, counted, end) in enumerate(parts):
                wanted = slice(max(begin + first, counted), min(begin + last, end))
                if wanted.start < wanted.stop:
                    nats[i][wanted] = losses[row, wanted.start - begin - first : wanted.stop - begin - first]
    return nats


def _read_at_once(model: Any, family: Family, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.nn.Module]:
    """Return a value of each step of tokens [B, T], [B, T, ...], and the module that makes their logits of them."""
    if not family.linear_head:
        return model(input_ids=tokens, use_cache=False).logits, torch.nn.Identity()
    stack = model.get_submodule(family.layers.rpartition(".")[0])
    return stack(input_ids=tokens, use_cache=False).last_hidden_state, model.get_output_embeddings()


def score(nats: list[np.ndarray], sizes: list[int]) -> dict:
    """Perplexity and bits per byte over documents.

    nats: -log p of each token of each document; sizes: bytes of each document. Sums are taken before dividing. The end
    of a document is a token like any other: saying where a text ends costs bits too.
    """
    total, tokens, size = float(sum(n.sum(dtype=np.float64) for n in nats)), sum(map(len, nats)), sum(sizes)
    bits = [float(n.sum(dtype=np.float64)) / math.log(2) for n in nats]
    return {
        "documents": len(nats),
        "tokens": tokens,
        "bytes": size,
        "nats_per_token": total / max(tokens, 1),
        "perplexity": math.exp(min(total / max(tokens, 1), 700)),
        "bits_per_byte": sum(bits) / max(size, 1),
        "interval_95": bootstrap_interval(bits, sizes),
    }


def by_position(nats: list[np.ndarray]) -> list[dict]:
    """Mean bits per token by position in the document, in intervals that double: does a longer past help?

    Returns [{"from", "to" (exclusive), "tokens", "bits_per_token"}], positions counted in tokens from 0.
    """
    rows, begin, end, longest = [], 0, 16, max((len(n) for n in nats), default=0)
    while begin < longest:
        part = [n[begin:end] for n in nats if len(n) > begin]
        tokens = sum(map(len, part))
        bits = sum(float(n.sum(dtype=np.float64)) for n in part) / math.log(2) / tokens
        rows.append({"from": begin, "to": min(end, longest), "tokens": tokens, "bits_per_token": bits})
        begin, end = end, 2 * end
    return rows


def by_length(bits: list[float], sizes: list[int]) -> list[dict]:
    """Bits per byte of documents of like length, in intervals of bytes that double.

    bits, sizes: of each document. Returns [{"from", "to" (exclusive), "documents", "bytes", "bits_per_byte"}], without the
    intervals that hold no document.
    """
    rows, begin, end = [], 0, 1024
    while begin <= max(sizes, default=-1):
        part = [i for i, size in enumerate(sizes) if begin <= size < end]
        if size := sum(sizes[i] for i in part):
            total = sum(bits[i] for i in part)
            rows.append(
                {"from": begin, "to": end, "documents": len(part), "bytes": size, "bits_per_byte": total / size}
            )
        begin, end = end, 2 * end
    return rows


def choose_documents(split, tokenizer, max_bytes: int | None) -> tuple[list[int], list[str]]:
    """Draw whole documents, in a fixed random order, until they hold `max_bytes` bytes; all of them for None.

    Random, because neighbours in a corpus are alike; whole, because the state of a document's start belongs to it.
    Returns the indices, ascending, and the documents' texts.
    """
    order = np.random.default_rng(0).permutation(len(split)) if max_bytes else range(len(split))
    texts: dict[int, str] = {}
    size = 0
    for i in map(int, order):
        texts[i] = tokenizer.decode(
            split[i]["input"].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        size += len(texts[i].encode())
        if max_bytes and size >= max_bytes:
            break
    indices = sorted(texts)
    return indices, [texts[i] for i in indices]


def evaluate_split(
    model: Any, model_dir: Path, split: Any, options: Any, name: str, shown: bool
) -> tuple[dict, pd.DataFrame]:
    """Predict every token of a prepared split; if it is shown, continue prompts and compare with simple means.

    See `lt25.tasks` for the arguments.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model_dir, local_files_only=True, trust_remote_code=options.trust_remote_code
    )
    metrics, table = predict(
        model, split, tokenizer, options, name, PreparedSplit(split.path, "train") if shown else None
    )
    if shown and options.lm_eval:
        metrics["lm_eval"] = harness.scores(model, tokenizer, options.lm_eval, options.batch_size, project_root())
    return metrics, table


def predict(
    model: Any, split: Any, tokenizer: Any, options: Any, what: str, train: Any = None
) -> tuple[dict, pd.DataFrame]:
    """Predict every token of the documents of a prepared split.

    model: a causal language model that hands on `past_key_values`; split: a `PreparedSplit` of token ids, each document
    closed by the end token; tokenizer: its tokenizer, with an end token; train: the training split, where the split is shown:
    the prompts are continued, and tokens guessed by their frequency in it.
    Returns the metrics and one row a document, in the split's order: id, tokens, bytes, bits, bits_per_byte.
    The compressors read the same documents, concatenated. Raises UserError if there is nothing to predict.
    """
    indices, texts = choose_documents(split, tokenizer, options.max_bytes)
    sizes = [len(text.encode()) for text in texts]
    if not sum(sizes):
        raise UserError(f"{what}: the split holds no text to predict: prepare the data again")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    nats = token_nats(model, [split[i]["input"] for i in indices], start, options.batch_size, what)
    bits = [float(n.sum(dtype=np.float64)) / math.log(2) for n in nats]
    metrics = {
        **score(nats, sizes),
        "documents_in_split": len(split),
        "compressors": compressors("".join(texts).encode()),
        "by_position": by_position(nats),
        "by_length": by_length(bits, sizes),
    }
    if train is not None and train.shards:
        documents = (split[i]["input"] for i in indices)
        metrics["baselines"] = {"unigram": unigram_bits_per_byte(train, documents, sum(sizes), model.config.vocab_size)}
    if train is not None and options.new_tokens:
        prompts = list(options.prompts) or first_lines_of_three(texts)
        metrics["samples"] = samples(model, tokenizer, prompts, options.new_tokens)
    table = pd.DataFrame(
        {
            "id": split.table()["id"].to_numpy()[indices],
            "tokens": [len(n) for n in nats],
            "bytes": sizes,
            "bits": bits,
            "bits_per_byte": [b / max(size, 1) for b, size in zip(bits, sizes, strict=True)],
        }
    )
    return metrics, table


def first_lines_of_three(texts: list[str]) -> list[str]:
    """Prompts: the first whole lines, `PROMPT_CHARACTERS` at most, of three documents spread over `texts`."""
    texts = [text for text in texts if text.strip()]
    heads = [texts[int(i)][:PROMPT_CHARACTERS] for i in np.linspace(0, len(texts) - 1, min(3, len(texts)))]
    lines = [head[: head.rfind("\n") + 1] for head in heads]
    return [line if line.strip() else head for line, head in zip(lines, heads, strict=True)]


def samples(
    model, tokenizer, prompts: list[str], new_tokens: int, temperature: float = 0.8, seed: int = 0
) -> list[dict]:
    """Continue each prompt, once by the likeliest token each time and once drawn at random.

    The first prompt is continued with ``seed``, each further one with the next number, so that equal prompts are continued in
    different ways. The drawn texts can be repeated, and the global generator is left as it was.

    Returns:
        [{"prompt", "greedy", "sampled", "temperature", "seed"}]; the continuations are without the prompt and at most
        ``new_tokens`` tokens long.
    """
    likeliest = Generator(model, Sampling(new_tokens, temperature=0))
    drawn = Generator(model, Sampling(new_tokens, temperature=temperature))
    written = []
    for own_seed, prompt in enumerate(prompts, start=seed):
        ids = encode(tokenizer, prompt).to(model.device)
        greedy, sampled = (
            tokenizer.decode(generate(ids, own_seed), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for generate in (likeliest, drawn)
        )
        written.append(
            {"prompt": prompt, "greedy": greedy, "sampled": sampled, "temperature": temperature, "seed": own_seed}
        )
    return written


def summary(metrics: dict) -> str:
    """Say a split's main number in a line for the log."""
    return f"{metrics['bits_per_byte']:.3f} bits per byte over {metrics['bytes']:,} bytes"


def plots(metrics: dict, table: pd.DataFrame) -> dict[str, Figure]:
    """Draw bits per byte of each document, and bits per token by position: file -> figure."""
    return {
        "bits_by_document.svg": bits_by_document(table, metrics),
        "bits_by_position.svg": bits_by_position(metrics["by_position"]),
    }


def bits_by_document(table: pd.DataFrame, metrics: dict) -> Figure:
    """Bits per byte of each document by its size, with the whole set's value and the compressors'."""
    rows = table[table["bytes"] > 0]
    if len(rows) > 1500:
        rows = rows.sample(1500, random_state=0)
    ax = axes(SMALL, "Bits per byte, one dot a document", "bytes in the document")
    ax.plot(rows["bytes"], rows["bits_per_byte"], "o", color=ACCENT, alpha=0.5, markersize=3.5, markeredgewidth=0)
    lines = {"this model": (metrics["bits_per_byte"], ACCENT)}
    for name, colour in (("gzip -9", SECOND), ("xz -9", THIRD)):
        if name in metrics["compressors"]:
            lines[name] = (metrics["compressors"][name], colour)
    ax.set_xscale("log")
    for value, colour in lines.values():
        ax.axhline(value, color=colour, linewidth=1.1)
    top = max(np.quantile(rows["bits_per_byte"], 0.98), *(value for value, _ in lines.values())) * 1.08
    bottom = min(cast(float, rows["bits_per_byte"].min()), *(value for value, _ in lines.values())) * 0.92
    ax.set_ylim(bottom, top)
    label_lines(ax, lines, bottom, top)
    ax.xaxis.set_major_formatter(short_bytes)
    return figure_of(ax)


def label_lines(ax, lines: dict[str, tuple[float, str]], bottom: float, top: float) -> None:
    """Write each line's name at its right end, pushed apart where they would overlap."""
    apart = (top - bottom) * 0.075
    below = -np.inf
    for name, (value, colour) in sorted(lines.items(), key=lambda line: line[1][0]):
        below = max(value, below + apart)
        ax.annotate(
            f"{name} {value:.2f}",
            (1, below),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
        )


def bits_by_position(rows: list[dict]) -> Figure:
    """Bits per token by position in the document: how much a longer past helps. rows: of `by_position`."""
    ax = axes(SMALL, "Bits per token by position in the document", "tokens before it")
    middle = [np.sqrt(max(row["from"], 1) * row["to"]) for row in rows]
    ax.plot(middle, [row["bits_per_token"] for row in rows], "o-", color=ACCENT)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda x, _: f"{int(x):,}" if x >= 1 else "")
    ax.yaxis.set_major_locator(ticks(5))
    return figure_of(ax)


def short_bytes(value: float, _position=None) -> str:
    """1024 bytes are "1 kB" near enough on an axis: powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
