from types import SimpleNamespace

import torch

from lt25.evaluation import recall
from lt25.report import recall as report

from .fakes import FakeSplit, options


class Copier(torch.nn.Module):
    """Says the token that followed the last time; right up to a distance."""

    device = torch.device("cpu")

    def forward(self, input_ids):
        logits = torch.zeros(*input_ids.shape, 9)
        for row, tokens in zip(logits, input_ids.tolist(), strict=True):
            for n, token in enumerate(tokens):
                before = tokens[max(n - 3, 0) : n]
                if token in before:
                    row[n, tokens[n - before[::-1].index(token)]] = 1
        return SimpleNamespace(logits=logits)


def test_recall_is_counted_by_difficulty():
    near, far = [1, 2, 1, 2], [1, 2, 3, 4, 5, 1, 2]
    labels = [[-100, -100, 2, -100], [-100] * 5 + [2, -100], [-100, -100, 2, -100]]
    split = FakeSplit([near, far, near], labels, difficulty=[1, 4, 1], asked=[1, 1, 1])
    metrics, table = recall.evaluate_split(Copier(), None, split, options("recall", batch_size=2), "test", False)
    assert table["right"].tolist() == [1, 0, 1]
    assert (metrics["asked"], metrics["right"]) == (3, 2)
    assert [(row["difficulty"], row["accuracy"], row["whole"]) for row in metrics["by_difficulty"]] == [
        (1, 1.0, 1.0),
        (4, 0.0, 0.0),
    ]
    assert "0.0 % at difficulty 4" in recall.summary(metrics)
    assert report.headline(metrics, "test").also == {"at difficulty 4": "0.0 %"}
    assert set(recall.plots(metrics, table)) == set(report.CAPTIONS)
