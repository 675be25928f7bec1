"""Word and character error rates of a CTC model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer

from lt25.data.batches import longest_first
from lt25.data.speech_recognition import collate, transforms
from lt25.evaluation import conditions
from lt25.evaluation.alignment import aligned
from lt25.evaluation.beam_search import BeamSearch
from lt25.evaluation.decoder import reads_training_texts, training_texts
from lt25.evaluation.interval import rate_interval
from lt25.evaluation.style import ACCENT, SECOND, SMALL, TEXT, THIRD, axes, end_at_100, figure_of
from lt25.ops import greedy_ids
from lt25.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFUSIONS = 20
"""So many pairs of words are named that were taken for each other most often."""


def score(
    references: list[str], hypotheses: list[str], speakers: Sequence[str] | None = None
) -> tuple[dict, pd.DataFrame]:
    """Error rates over a whole set, and the counts of each utterance.

    WER is (substitutions + deletions + insertions) / words of all references, CER the same in characters, spaces
    included: errors are summed before they are divided, so that a short utterance weighs what its words weigh. An empty
    reference adds its insertions to the errors. Raises ValueError if the lists differ in length.

    speakers: of each utterance, where they are known: intervals are then of other speakers, if there are enough, and
    each has a rate of their own.
    """
    rows, confused = [], Counter()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        output = jiwer.process_words(reference, hypothesis)
        counts = {kind: getattr(output, kind) for kind in ("substitutions", "deletions", "insertions", "hits")}
        if errors := _errors(output):
            confused.update((said, heard) for kind, said, heard in aligned(output) if kind != "equal")
        characters = jiwer.process_characters(reference, hypothesis)
        words = counts["substitutions"] + counts["deletions"] + counts["hits"]
        rows.append(
            {
                "reference": reference,
                "prediction": hypothesis,
                **counts,
                "errors": errors,
                "words": words,
                "character_errors": _errors(characters),
                "characters": characters.substitutions + characters.deletions + characters.hits,
            }
        )
    table = pd.DataFrame(rows)
    total = {name: int(table[name].to_numpy().sum()) for name in table.columns[2:]}
    metrics = {
        "utterances": len(table),
        "wer": total["errors"] / max(total["words"], 1),
        "interval_95": rate_interval(table["errors"], table["words"], speakers),
        "cer": total["character_errors"] / max(total["characters"], 1),
        "cer_interval_95": rate_interval(table["character_errors"], table["characters"], speakers),
        **{kind: total[kind] for kind in ("substitutions", "deletions", "insertions", "hits")},
        "reference_words": total["words"],
        "reference_characters": total["characters"],
        "utterances_without_error": int((table["errors"].to_numpy() == 0).sum()),
        "confusions": [
            {"said": said, "heard": heard, "count": count}
            for (said, heard), count in sorted(confused.items(), key=lambda one: (-one[1], one[0]))[:CONFUSIONS]
        ],
    }
    if speakers is not None:
        metrics["by_speaker"] = {
            speaker: {
                "utterances": len(theirs),
                "wer": float(theirs["errors"].to_numpy().sum() / max(theirs["words"].to_numpy().sum(), 1)),
                "interval_95": rate_interval(theirs["errors"].to_numpy(), theirs["words"].to_numpy()),
            }
            for speaker, theirs in table.groupby(np.array(speakers, object))
        }
    return metrics, table


def in_english(table: pd.DataFrame) -> dict[str, Any]:
    """Return the word error rate, and its interval, of texts as Whisper's normaliser of English has them.

    Numbers become figures, contractions whole words, titles short; fillers are left out. The list of British and American
    spellings, which Whisper's own files bring along, is not applied.

    table: one row an utterance, as `score` makes it, with ``speaker`` where it is known.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})
    references, hypotheses = ([normalise(text) for text in table[column]] for column in ("reference", "prediction"))
    speakers = table["speaker"].astype(str).tolist() if "speaker" in table else None
    metrics, _ = score(references, hypotheses, speakers)
    return {name: metrics[name] for name in ("wer", "interval_95", "reference_words")}


def _errors(output: jiwer.WordOutput | jiwer.CharacterOutput) -> int:
    """Count the errors of an alignment."""
    return output.substitutions + output.deletions + output.insertions


def evaluate_split(
    model: Any, model_dir: Path, split: Any, options: Any, name: str, shown: bool
) -> tuple[dict, pd.DataFrame]:
    """Transcribe every utterance of a prepared split and count the errors; see `lt25.tasks` for the arguments."""
    tokenizer = AutoTokenizer.from_pretrained(
        model_dir, local_files_only=True, trust_remote_code=options.trust_remote_code
    )
    search = None
    if options.decoder:
        texts = training_texts(split.path) if reads_training_texts(options.decoder) else ()
        search = BeamSearch(tokenizer, options.decoder, texts)
    metrics, table = transcribe(model, split, tokenizer, options.batch_size, name, search)
    if options.normaliser == "english":
        metrics["normalised"] = in_english(table)
    if shown and options.conditions:
        metrics["conditions"] = {conditions.AS_RECORDED: conditions.measured(metrics)}
        for condition in conditions.named(split):
            played = conditions.Played(split, condition)
            heard, _ = transcribe(model, played, tokenizer, options.batch_size, condition, search)
            metrics["conditions"][condition] = conditions.measured(heard)
    return metrics, table


@torch.inference_mode()
def transcribe(
    model: Any, split: Any, tokenizer: Any, batch_size: int, what: str, search: BeamSearch | None = None
) -> tuple[dict, pd.DataFrame]:
    """Transcribe every utterance of a prepared split, by greedy CTC decoding or a search.

    model: a CTC model taking `input_features` [B, T, F] and `attention_mask` [B, T], giving `logits` [B, T', V] and
    `logit_lengths` [B]; split: a `PreparedSplit`; tokenizer: its CTC tokenizer; what: name of the work, for the bar.
    Returns the metrics and one row an utterance, in the split's order: id, the columns of `score`, `alternatives` where
    several are asked for, and speaker and seconds where the split knows them. The real-time factor is seconds of computing
    (model and decoding, features ready-made) per second of audio.
    """
    facts = split.table()
    # Of each utterance what was heard, the best first.
    hypotheses, references = [[""]] * len(split), [""] * len(split)
    batches = longest_first(split.lengths, batch_size)
    computing = 0.0
    prepared = transforms(split, {}, training=False)
    for indices in track(batches, what, len(batches)):
        items = [prepared.of_item(split[int(i)]) for i in indices]
        batch = collate(items)
        # given labels, the model would compute a loss, and the real-time factor would pay for it
        del batch["labels"]
        started = time.perf_counter()
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        if search is None:
            ids = greedy_ids(output.logits, output.logit_lengths, tokenizer.pad_token_id)
            texts = [[to_text(symbols, tokenizer)] for symbols in ids]
        else:
            found = search(output.logits.float().log_softmax(-1), output.logit_lengths)
            texts = [[one.text for one in utterance] for utterance in found]
        computing += time.perf_counter() - started
        for i, item, heard in zip(indices, items, texts, strict=True):
            hypotheses[i] = heard
            references[i] = to_text(item["label"].tolist(), tokenizer)
    speakers = [str(speaker) for speaker in facts["speaker"]] if "speaker" in facts else None
    metrics, table = score(references, [heard[0] for heard in hypotheses], speakers)
    table.insert(0, "id", facts["id"].to_numpy())
    if search is not None and search.alternatives > 1:
        table["alternatives"] = hypotheses
        metrics["oracle_wer"] = _oracle_errors(references, hypotheses) / max(metrics["reference_words"], 1)
    for column in ("speaker", "seconds"):
        if column in facts:
            table[column] = facts[column].to_numpy()
    if "seconds" in facts:
        metrics["seconds_of_audio"] = float(facts["seconds"].sum())
        metrics["real_time_factor"] = computing / max(metrics["seconds_of_audio"], 1e-9)
    return metrics, table


def _oracle_errors(references: list[str], hypotheses: list[list[str]]) -> int:
    """Count the errors of words, had of each utterance the best of what was heard been chosen."""
    pairs = zip(references, hypotheses, strict=True)
    return sum(min(_errors(jiwer.process_words(said, heard)) for heard in all) for said, all in pairs)


def to_text(ids: list[int], tokenizer: Any) -> str:
    """Spell labels that are collapsed already: a double letter must stay double, hence ``group_tokens=False``."""
    return tokenizer.decode(ids, group_tokens=False, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def summary(metrics: dict) -> str:
    """Say a split's main number in a line for the log."""
    return f"WER {metrics['wer']:.2%}, CER {metrics['cer']:.2%} over {metrics['utterances']:,} utterances"


def plots(metrics: dict, table: pd.DataFrame) -> dict[str, Figure]:
    """Draw the word error rate by length, the kinds of errors, and what worse conditions do: file -> figure."""
    drawn = {"wer_by_length.svg": wer_by_length(table), "error_kinds.svg": error_kinds(metrics)}
    if "conditions" in metrics:
        drawn["wer_by_condition.svg"] = conditions.plot(metrics["conditions"])
    return drawn


def wer_by_length(table: pd.DataFrame) -> Figure:
    """Word error rate by the number of words spoken; long tails of lengths share a point."""
    words = table["words"].to_numpy()
    distinct = np.unique(words[words > 0])
    if len(distinct) <= 12:
        groups = [(f"{n}", words == n) for n in distinct]
    else:
        edges = np.unique(np.quantile(words[words > 0], np.linspace(0, 1, 9)).astype(int))
        edges[-1] += 1
        groups = [(f"{a}–{b - 1}" if b - a > 1 else f"{a}", (words >= a) & (words < b)) for a, b in pairwise(edges)]
    rates = [100 * table["errors"][chosen].sum() / words[chosen].sum() for _, chosen in groups]
    ax = axes(SMALL, "Word error rate by length, %", "words in the utterance")
    ax.bar(range(len(groups)), rates, width=0.66, color=ACCENT, alpha=0.85)
    for x, rate in enumerate(rates):
        ax.annotate(f"{rate:.1f}", (x, rate), (0, 3), textcoords="offset points", ha="center", fontsize=7.5, color=TEXT)
    ax.set_xticks(range(len(groups)), [label for label, _ in groups], rotation=0 if len(groups) <= 9 else 45)
    end_at_100(ax, max([*rates, 1]) * 1.15)
    return figure_of(ax)


def error_kinds(metrics: dict) -> Figure:
    """Substitutions, deletions and insertions, in words and as a share of the reference's words."""
    kinds = [("substitutions", ACCENT), ("deletions", SECOND), ("insertions", THIRD)]
    counts = [metrics[kind] for kind, _ in kinds]
    ax = axes((SMALL[0], 1.9), f"Errors by kind, of {metrics['reference_words']:,} words", grid="none")
    ax.barh(range(3), counts, height=0.56, color=[colour for _, colour in kinds], alpha=0.85)
    for y, count in enumerate(counts):
        share = 100 * count / max(metrics["reference_words"], 1)
        ax.annotate(
            f"{count:,}  ({share:.2f} %)",
            (count, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=TEXT,
        )
    ax.set_yticks(range(3), [kind for kind, _ in kinds])
    ax.set(ylim=(2.6, -0.6), xlim=(0, max([*counts, 1]) * 1.45), xticks=[])
    ax.spines["bottom"].set_visible(False)
    return figure_of(ax)
