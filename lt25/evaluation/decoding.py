"""From CTC logits to text."""

from __future__ import annotations

import torch


def greedy_ids(logits: torch.Tensor, lengths: torch.Tensor, blank: int = 0) -> list[list[int]]:
    """Best-path decoding (Graves et al., ICML 2006, section 3.2): the best symbol of each frame, repeats collapsed,
    blanks dropped.

    logits: float [B, T, V]; lengths: int [B], frames of each utterance that count (what lies beyond is not read);
    blank: the blank's id. Returns one list of symbol ids an utterance.
    """
    paths = logits.argmax(-1).cpu()
    collapsed = (torch.unique_consecutive(path[:n]) for path, n in zip(paths, lengths.tolist(), strict=True))
    return [symbols[symbols != blank].tolist() for symbols in collapsed]


def greedy_texts(logits: torch.Tensor, lengths: torch.Tensor, tokenizer) -> list[str]:
    """`greedy_ids`, spelled by a CTC tokenizer whose pad token is the blank (`Wav2Vec2CTCTokenizer`)."""
    return [to_text(ids, tokenizer) for ids in greedy_ids(logits, lengths, tokenizer.pad_token_id)]


def to_text(ids: list[int], tokenizer) -> str:
    """Spell symbol ids that are already collapsed: a double letter must stay double, hence `group_tokens=False`."""
    return tokenizer.decode(ids, group_tokens=False, skip_special_tokens=True, clean_up_tokenization_spaces=False)
