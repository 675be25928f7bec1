"""Models and splits small enough that the right answer can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from lt25.config.key import resolve
from lt25.tasks import TASKS


def options(task, **given):
    """The options of an evaluation, as an experiment resolves them."""
    return SimpleNamespace(**resolve(given, TASKS[task].evaluation))


class FakeSplit:
    """What evaluation asks of a `PreparedSplit`, from lists."""

    def __init__(self, inputs, labels=None, **columns):
        self.inputs = [torch.as_tensor(x) for x in inputs]
        self.labels = labels
        self.lengths = np.array([len(x) for x in self.inputs])
        self.columns = {"id": [f"example-{i}" for i in range(len(self.inputs))], **columns}

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        item = {"input": self.inputs[i]}
        if self.labels is not None:
            item["label"] = torch.as_tensor(self.labels[i])
        return item

    def table(self):
        return pd.DataFrame(self.columns)


class SumModel(torch.nn.Module):
    """A causal model with a state: its logits depend on the sum of all tokens so far, and on nothing else."""

    device = torch.device("cpu")

    def __init__(self, vocabulary: int):
        super().__init__()
        self.config = SimpleNamespace(model_type="lt25_hgrn", vocab_size=vocabulary)
        self.table = torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(1))
        self.longest = 0

    def forward(self, input_ids, past_key_values=None, use_cache=False):
        assert use_cache
        self.longest = max(self.longest, input_ids.shape[1])
        before = 0 if past_key_values is None else past_key_values
        sums = input_ids.cumsum(1) + before
        return SimpleNamespace(logits=self.table[sums % 64], past_key_values=sums[:, -1:])


class ByteTokenizer:
    """A token is a byte; 256 ends a text."""

    bos_token_id = None
    eos_token_id = 256
    pad_token_id = 256

    def decode(self, ids, **_):
        return bytes(i for i in ids if i < 256).decode()

    def encode(self, text, **_):
        return list(text.encode())


class LetterTokenizer:
    """CTC symbols: 0 is the blank, 1 parts words, then a, b, c ..."""

    pad_token_id = 0

    def decode(self, ids, group_tokens=True, **_):
        assert group_tokens is False
        return "".join(" " if i == 1 else chr(ord("a") + i - 2) for i in ids)
