"""The speech recogniser."""

import pytest
import torch

from lt25.models.cache import HGRNCache
from lt25.ops import ctc_loss
from tests.models import tiny


@pytest.mark.parametrize("subsampling", [1, 2, 4])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(subsampling, bidirectional):
    model = tiny.ctc(subsampling=subsampling, bidirectional=bidirectional, use_short_conv=True)
    lengths = (23, 14, 1)
    features = torch.full((3, 23, 8), 50.0)
    mask = (torch.arange(23) < torch.tensor(lengths)[:, None]).long()
    for n, length in enumerate(lengths):
        features[n, :length] = torch.randn(length, 8)
    output = model(features, mask)
    for n, length in enumerate(lengths):
        alone = model(features[n : n + 1, :length])
        frames = -(-length // subsampling)
        assert output.logit_lengths[n] == alone.logit_lengths[0] == alone.logits.shape[1] == frames
        torch.testing.assert_close(output.logits[n, :frames], alone.logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("blank", [None, 3])
def test_silence_after_the_end(blank):
    model = tiny.ctc(subsampling=2, pad_token_id=blank)
    features = torch.randn(2, 12, 8)
    mask = torch.tensor([[1] * 12, [1] * 5 + [0] * 7])
    logits = model(features, mask).logits
    assert logits.isfinite().all()
    assert (logits[1, 3:].argmax(-1) == (blank or 0)).all()
    assert (logits[1, 3:].softmax(-1).amax(-1) == 1).all()
    assert not (logits[0].softmax(-1).amax(-1) == 1).any()


def test_loss_is_nats_per_character():
    model = tiny.ctc(subsampling=2)
    features, mask = torch.randn(2, 12, 8), torch.tensor([[1] * 12, [1] * 9 + [0] * 3])
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    output = model(features, mask, labels)
    torch.testing.assert_close(output.loss, ctc_loss(output.logits, torch.tensor([6, 5]), labels) / 4)
    output.loss.backward()
    assert model.model.features.convs[0].weight.grad.any()


def test_lengths_of_outputs():
    model = tiny.ctc(subsampling=4)
    lengths = torch.arange(1, 20)
    found = model.frames(lengths)
    assert found.tolist() == [model(torch.zeros(1, int(n), 8)).logits.shape[1] for n in lengths]


def test_half_precision_features_are_taken_as_they_come():
    model = tiny.ctc(subsampling=2)
    features = torch.randn(1, 9, 8).half()
    assert torch.equal(model(features).logits, model(features.float()).logits)


def test_needs_features():
    with pytest.raises(ValueError, match="input_size"):
        tiny.ctc(input_size=None)


def test_training_reads_no_frame_past_the_end():
    """Where nothing is put in place of these frames: the loss and all gradients are those of the utterances by themselves."""
    model = tiny.ctc().train()
    features, labels = torch.randn(2, 9, model.config.input_size), torch.tensor([[1, 2, 3], [2, -100, -100]])
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    features.requires_grad_()
    together = model(features, attention_mask=mask, labels=labels).loss * 4
    apart = model(features[:1], labels=labels[:1]).loss * 3 + model(features[1:, :5], labels=labels[1:, :1]).loss
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    wanted = [features, *model.parameters()]
    gradients = [
        torch.autograd.grad(loss, wanted, materialize_grads=True, allow_unused=True) for loss in (together, apart)
    ]
    assert not gradients[0][0][1, 5:].any()
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("subsampling", [1, 2, 4])
@pytest.mark.parametrize("steps", [1, 2, 3, 22, 23])
@pytest.mark.parametrize("size", [1, 5])
def test_a_stream_gives_the_logits_of_the_whole(subsampling, steps, size):
    model = tiny.ctc(subsampling=subsampling, use_short_conv=True)
    features, cache = torch.randn(2, steps, 8), HGRNCache(model.config)
    logits = [model.stream(part, cache) for part in features.split(size, 1)]
    logits.append(model.stream(features[:, :0], cache, last=True))
    torch.testing.assert_close(torch.cat(logits, 1), model(features).logits, atol=1e-4, rtol=1e-4)


def test_what_a_stream_remembers_can_be_taken_elsewhere():
    model = tiny.ctc(subsampling=4, use_short_conv=True)
    features, caches = torch.randn(1, 21, 8), [HGRNCache(model.config) for _ in range(3)]
    model.stream(features[:, :10], caches[0])
    caches[1].restore(caches[0].tensors())
    rest = [model.stream(features[:, 10:], cache, last=True) for cache in caches]
    assert torch.equal(rest[0], rest[1]) and rest[2].shape != rest[0].shape


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"position_embeddings": 9}])
def test_what_reads_no_stream(options):
    model = tiny.ctc(**options)
    with pytest.raises(ValueError, match="reads no stream"):
        model.stream(torch.randn(1, 9, 8), HGRNCache(model.config))
