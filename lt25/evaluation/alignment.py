"""Two texts side by side, word by word."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jiwer


def aligned(output: "jiwer.WordOutput") -> list[tuple[str, str, str]]:
    """Return the words of jiwer's alignment of two texts: kind ("equal", "substitute", "delete", "insert"), said, heard.

    The word that is not there is "".
    """
    ours, theirs = output.references[0], output.hypotheses[0]
    pairs = []
    for chunk in output.alignments[0]:
        left = ours[chunk.ref_start_idx : chunk.ref_end_idx]
        right = theirs[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for i in range(max(len(left), len(right))):
            pairs.append((chunk.type, left[i] if i < len(left) else "", right[i] if i < len(right) else ""))
    return pairs
