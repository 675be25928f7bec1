"""The sequence classifier."""

import pytest
import torch

from lt25.errors import UserError
from lt25.models.classifier import _attend, _pool
from lt25.models.hgrn import BatchNorm
from tests.models import tiny


@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
@pytest.mark.parametrize("subsampling", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(pooling, subsampling, bidirectional):
    model = tiny.classifier(pooling=pooling, subsampling=subsampling, bidirectional=bidirectional)
    lengths = (11, 6, 1)
    features = torch.full((3, 11, 2), 50.0)
    mask = (torch.arange(11) < torch.tensor(lengths)[:, None]).long()
    for n, length in enumerate(lengths):
        features[n, :length] = torch.randn(length, 2)
    logits = model(features, mask).logits
    assert logits.shape == (3, 5)
    for n, length in enumerate(lengths):
        alone = model(features[n : n + 1, :length]).logits
        torch.testing.assert_close(logits[n : n + 1], alone, atol=1e-4, rtol=1e-4)
    full = torch.ones_like(mask)
    torch.testing.assert_close(model(features, full).logits, model(features).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_padding_changes_nothing_whatever_the_norm(norm, norm_position):
    """Neither what is learned of a batch nor what an exported model says of it."""
    model = tiny.classifier(norm=norm, norm_position=norm_position, pooling="attention", bidirectional=True)
    lengths, features, mask = (9, 4), torch.randn(2, 9, 2), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 4:], features[1, 4:] = 0, 0
    conspicuous = torch.cat((features, torch.full((2, 3, 2), 50.0)), 1)
    conspicuous[1, 4:] = 50.0
    model.train()
    found = [model(features, mask).logits, model(conspicuous, torch.nn.functional.pad(mask, (0, 3))).logits]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    model.eval()
    logits = model(conspicuous, torch.nn.functional.pad(mask, (0, 3))).logits
    for n, length in enumerate(lengths):
        torch.testing.assert_close(logits[n : n + 1], model(features[n : n + 1, :length]).logits, atol=1e-4, rtol=1e-4)


def test_batch_norm_is_torchs_over_the_steps_that_are_not_padding():
    x, mask = torch.randn(3, 7, 4) * 3 + 2, torch.arange(7) < torch.tensor([[7], [3], [5]])
    own, other = BatchNorm(4, 1e-5), torch.nn.BatchNorm1d(4, 1e-5)
    torch.testing.assert_close(own(x, mask)[mask], other(x[mask]))
    torch.testing.assert_close(own.running_mean, other.running_mean)
    torch.testing.assert_close(own(x), other.train()(x.flatten(0, 1)).view_as(x))
    own(torch.full_like(x, torch.inf))
    assert own.running_mean.isfinite().all() and own.running_var.isfinite().all()
    torch.testing.assert_close(own.eval()(x)[:, :2], own(x[:, :2]))


def test_with_the_norm_behind_the_sum_the_stream_itself_is_normalised():
    for norm in ("rms", "layer"):
        model = tiny.classifier(norm=norm, norm_position="post")
        layer, x = model.model.layers[0], torch.randn(2, 6, 24)
        branch, stream = layer(x, None)
        before = layer.attn_norm(x)
        mixed, _ = layer.attn(before, None, torch.nn.Identity())
        expected = layer.mlp_norm(before + mixed)
        torch.testing.assert_close(stream, expected)
        torch.testing.assert_close(branch, layer.mlp(expected))


def test_attention_pooling_begins_as_a_mean_and_weighs_by_importance():
    hidden, scores = torch.randn(2, 5, 4), torch.zeros(2, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    mean = _pool(hidden, mask, "mean", None)
    torch.testing.assert_close(_attend(hidden, scores, mask, None), mean)
    scores[:, 1] = 1000.0
    torch.testing.assert_close(_attend(hidden, scores, mask, None), hidden[:, 1])
    scores[0, 4] = torch.nan
    assert _attend(hidden, scores, mask, None).isfinite().all()


def test_left_padding_counts_as_little():
    model = tiny.classifier(pooling="last")
    series = torch.randn(1, 6, 2)
    padded = torch.cat((torch.full((1, 3, 2), 50.0), series), 1)
    found = model(padded, torch.tensor([[0] * 3 + [1] * 6])).logits
    torch.testing.assert_close(found, model(series).logits, atol=1e-4, rtol=1e-4)


def test_loss_is_the_cross_entropy():
    model = tiny.classifier()
    series, labels = torch.randn(3, 6, 2), torch.tensor([0, 4, 2])
    output = model(series, labels=labels)
    expected = -output.logits.log_softmax(-1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(output.loss, expected)


def test_learns_a_rule_that_needs_memory():
    """Which of two channels spiked first: the answer lies far from the end of the series."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = tiny.classifier(use_short_conv=True, pooling="last").train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(50):
        first = torch.randint(0, 2, (32,), generator=generator)
        series = torch.zeros(32, 14, 2)
        series[torch.arange(32), torch.randint(0, 6, (32,), generator=generator), first] = 1
        series[torch.arange(32), torch.randint(6, 12, (32,), generator=generator), 1 - first] = 1
        output = model(series, labels=first)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (output.logits.argmax(-1) == first).float().mean() > 0.95


def test_long_series_are_pooled_right_in_half_precision():
    """Their steps are more than such numbers count exactly."""
    hidden = torch.randn(2, 1003, 4).bfloat16()
    assert torch.equal(_pool(hidden, None, "last", None), hidden[:, -1])
    torch.testing.assert_close(
        _pool(hidden + 1, None, "mean", None).float(), (hidden + 1).float().mean(1), atol=0.01, rtol=0.01
    )
    mask = torch.arange(1003) < torch.tensor([[1001], [3]])
    assert torch.equal(_pool(hidden, mask.long(), "last", None), torch.stack((hidden[0, 1000], hidden[1, 2])))


def test_position_embeddings_tell_the_places_of_equal_steps_apart():
    """Each hidden state gets the embedding of its own place, also after subsampling, and a longer sequence is refused."""
    model = tiny.classifier(position_embeddings=7, subsampling=2)
    series = torch.zeros(2, 14, 2)
    hidden, _ = model.model.features(series, None)
    positions = model.model.features.positions.weight
    torch.testing.assert_close(hidden - hidden[:, :1], (positions - positions[0]).expand(2, -1, -1))
    with pytest.raises(
        UserError, match=r"model\.position_embeddings: found a sequence of 8 steps, but the model has 7"
    ):
        model(torch.zeros(1, 16, 2))
