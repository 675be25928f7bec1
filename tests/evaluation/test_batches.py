import numpy as np

from lt25.evaluation.batches import sorted_batches


def test_each_example_once_longest_first():
    lengths = np.array([3, 9, 1, 9, 4])
    batches = sorted_batches(lengths, 2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
