import torch

from lt25.evaluation.decoding import greedy_ids, greedy_texts

from .fakes import LetterTokenizer


def logits_of(paths, symbols=5):
    length = max(map(len, paths))
    padded = torch.tensor([path + [2] * (length - len(path)) for path in paths])
    return torch.nn.functional.one_hot(padded, symbols).float()


def test_repeats_collapse_and_blanks_drop_and_a_blank_keeps_a_double():
    paths = [[0, 2, 2, 0, 2, 3, 3, 1, 1, 4], [0, 0, 0], [3]]
    lengths = torch.tensor([len(path) for path in paths])
    assert greedy_ids(logits_of(paths), lengths) == [[2, 2, 3, 1, 4], [], [3]]
    assert greedy_texts(logits_of(paths), lengths, LetterTokenizer()) == ["aab c", "", "b"]


def test_frames_beyond_the_length_are_not_read():
    paths = [[3, 4, 2, 2]]
    assert greedy_ids(logits_of(paths), torch.tensor([2])) == [[3, 4]]
    assert greedy_ids(logits_of(paths), torch.tensor([0])) == [[]]


def test_another_blank():
    assert greedy_ids(logits_of([[4, 0, 4, 0]]), torch.tensor([4]), blank=4) == [[0, 0]]
