"""Word and character error rates of a CTC model."""

from __future__ import annotations

import time

import jiwer
import pandas as pd
import torch

from lt25.data.speech_recognition import collate, transforms
from lt25.evaluation.batches import sorted_batches
from lt25.evaluation.decoding import greedy_texts, to_text
from lt25.evaluation.interval import bootstrap_interval
from lt25.evaluation.options import Options
from lt25.progress import track


def word_errors(reference: str, hypothesis: str) -> dict[str, int]:
    """Substitutions, deletions, insertions and hits of the cheapest alignment of two texts, in words."""
    output = jiwer.process_words(reference, hypothesis)
    return {kind: getattr(output, kind) for kind in ("substitutions", "deletions", "insertions", "hits")}


def align(reference: str, hypothesis: str) -> list[tuple[str, str, str]]:
    """Align two texts word by word.

    Returns (kind, reference word, hypothesis word), kind one of "equal", "substitute", "delete", "insert"; the word
    that is not there is "".
    """
    output = jiwer.process_words(reference, hypothesis)
    ours, theirs = output.references[0], output.hypotheses[0]
    pairs = []
    for chunk in output.alignments[0]:
        left = ours[chunk.ref_start_idx : chunk.ref_end_idx]
        right = theirs[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for i in range(max(len(left), len(right))):
            pairs.append((chunk.type, left[i] if i < len(left) else "", right[i] if i < len(right) else ""))
    return pairs


def score(references: list[str], hypotheses: list[str]) -> tuple[dict, pd.DataFrame]:
    """Error rates over a whole set, and the counts of each utterance.

    WER is (substitutions + deletions + insertions) / words of all references, CER the same in characters, spaces
    included: errors are summed before they are divided, so that a short utterance weighs what its words weigh. An empty
    reference adds its insertions to the errors. Raises ValueError if the lists differ in length.
    """
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        counts = word_errors(reference, hypothesis)
        characters = jiwer.process_characters(reference, hypothesis)
        errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        words = counts["substitutions"] + counts["deletions"] + counts["hits"]
        rows.append(
            {
                "reference": reference,
                "prediction": hypothesis,
                **counts,
                "errors": errors,
                "words": words,
                "character_errors": characters.substitutions + characters.deletions + characters.insertions,
                "characters": characters.substitutions + characters.deletions + characters.hits,
            }
        )
    table = pd.DataFrame(rows)
    total = {name: int(table[name].sum()) for name in table.columns[2:]}
    metrics = {
        "utterances": len(table),
        "wer": total["errors"] / max(total["words"], 1),
        "interval_95": bootstrap_interval(table["errors"], table["words"]),
        "cer": total["character_errors"] / max(total["characters"], 1),
        **{kind: total[kind] for kind in ("substitutions", "deletions", "insertions", "hits")},
        "reference_words": total["words"],
        "reference_characters": total["characters"],
        "utterances_without_error": int((table["errors"] == 0).sum()),
    }
    return metrics, table


@torch.inference_mode()
def evaluate_split(model, split, tokenizer, options: Options, what: str) -> tuple[dict, pd.DataFrame]:
    """Transcribe every utterance of a prepared split by greedy CTC decoding.

    model: a CTC model taking `input_features` [B, T, F] and `attention_mask` [B, T], giving `logits` [B, T', V] and
    `logit_lengths` [B]; split: a `PreparedSplit`; tokenizer: its CTC tokenizer.
    Returns the metrics and one row an utterance, in the split's order: id, the columns of `score`, and speaker and
    seconds where the split knows them. The real-time factor is seconds of computing (model and decoding, features
    ready-made) per second of audio.
    """
    facts = split.table()
    hypotheses, references = [""] * len(split), [""] * len(split)
    batches = sorted_batches(split.lengths, options.batch_size)
    computing = 0.0
    prepared = transforms(split, {}, training=False)
    for indices in track(batches, what, len(batches)):
        items = [prepared.of_item(split[int(i)]) for i in indices]
        batch = collate(items)
        # given labels, the model would compute a loss, and the real-time factor would pay for it
        del batch["labels"]
        started = time.perf_counter()
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        texts = greedy_texts(output.logits, output.logit_lengths, tokenizer)
        computing += time.perf_counter() - started
        for i, item, text in zip(indices, items, texts, strict=True):
            hypotheses[i] = text
            references[i] = to_text(item["label"].tolist(), tokenizer)
    metrics, table = score(references, hypotheses)
    table.insert(0, "id", facts["id"].to_numpy())
    for column in ("speaker", "seconds"):
        if column in facts:
            table[column] = facts[column].to_numpy()
    if "seconds" in facts:
        metrics["seconds_of_audio"] = float(facts["seconds"].sum())
        metrics["real_time_factor"] = computing / max(metrics["seconds_of_audio"], 1e-9)
    return metrics, table
