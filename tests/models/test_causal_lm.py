"""The language model: FLA's checkpoints, loss and generation."""

import pytest
import torch

from lt25.models import HGRNForCausalLM, hgrn
from lt25.ops import hgrn_step, mixer_step
from tests.models import tiny
from tests.models.restatement import causal_lm_logits

VARIANTS = pytest.mark.parametrize("options", [{}, {"use_short_conv": True}, {"use_lower_bound": False}], ids=str)


@VARIANTS
def test_names_and_shapes_are_those_of_fla(options):
    from fla.models.hgrn import HGRNConfig as FLAConfig
    from fla.models.hgrn import HGRNForCausalLM as FLAForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "expand_ratio": 2, "vocab_size": 50, "pad_token_id": 0}
    theirs = FLAForCausalLM(FLAConfig(**sizes, **options)).state_dict()
    from lt25.models import HGRNConfig

    ours = HGRNForCausalLM(HGRNConfig(**sizes, **options)).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {k: v.shape for k, v in theirs.items()}


@VARIANTS
def test_computes_what_fla_computes(options):
    model = tiny.causal_lm(norm_eps=1e-3, **options).double()
    input_ids = torch.randint(0, 50, (2, 13))
    found = model(input_ids).logits
    expected = causal_lm_logits(model.state_dict(), input_ids, eps=1e-3)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)
    single = tiny.causal_lm(norm_eps=1e-3, **options)(input_ids).logits
    torch.testing.assert_close(single, expected.float(), atol=1e-3, rtol=1e-3)


def test_a_folder_saved_by_fla_loads(tmp_path):
    from fla.models.hgrn import HGRNConfig as FLAConfig
    from fla.models.hgrn import HGRNForCausalLM as FLAForCausalLM

    theirs = FLAForCausalLM(FLAConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50))
    theirs.save_pretrained(tmp_path)
    ours, report = HGRNForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


def test_loss_is_the_cross_entropy_of_the_next_token():
    model = tiny.causal_lm()
    input_ids = torch.randint(0, 50, (2, 7))
    labels = input_ids.clone()
    labels[1, 4:] = -100
    output = model(input_ids, labels=labels)
    log_probs = output.logits.log_softmax(-1)
    pairs = [(b, t) for b in range(2) for t in range(6) if labels[b, t + 1] != -100]
    expected = -torch.stack([log_probs[b, t, input_ids[b, t + 1]] for b, t in pairs]).mean()
    torch.testing.assert_close(output.loss, expected)
    assert model(input_ids).loss is None


def test_loss_of_packed_documents_is_that_of_each_alone():
    model = tiny.causal_lm(use_short_conv=True)
    documents = [torch.randint(0, 50, (1, length)) for length in (5, 1, 8)]
    packed = torch.cat(documents, 1)
    found = model(packed, labels=packed, cu_seqlens=torch.tensor([0, 5, 6, 14])).loss
    # A document of one token has nothing to predict.
    sums = [model(ids, labels=ids).loss * (ids.shape[1] - 1) for ids in documents if ids.shape[1] > 1]
    torch.testing.assert_close(found, sum(sums) / (4 + 7))


def test_logits_to_keep():
    model = tiny.causal_lm()
    input_ids = torch.randint(0, 50, (2, 7))
    logits = model(input_ids).logits
    torch.testing.assert_close(model(input_ids, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(input_ids, logits_to_keep=torch.tensor([1, 4])).logits, logits[:, [1, 4]])


def test_tied_embeddings_stay_tied(tmp_path):
    model = tiny.causal_lm(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embeddings.weight
    model.save_pretrained(tmp_path)
    again = HGRNForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embeddings.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def greedy(model, input_ids, steps):
    """Greedy continuation by a full forward for each token."""
    for _ in range(steps):
        logits = model(input_ids, use_cache=False).logits[:, -1]
        input_ids = torch.cat((input_ids, logits.argmax(-1, keepdim=True)), 1)
    return input_ids


@VARIANTS
@torch.no_grad()
def test_generation_equals_the_full_forward(options):
    model = tiny.causal_lm(**options)
    for length in (1, 2, 7):
        prompt = torch.randint(0, 50, (3, length))
        found = model.generate(prompt, max_new_tokens=10, do_sample=False)
        assert torch.equal(found, greedy(model, prompt, 10))


@VARIANTS
@torch.no_grad()
def test_generation_from_padded_prompts(options):
    model = tiny.causal_lm(pad_token_id=0, **options)
    prompts = [torch.randint(1, 50, (1, length)) for length in (6, 3)]
    batch, mask = torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64)
    for n, prompt in enumerate(prompts):
        batch[n, 6 - prompt.shape[1] :], mask[n, 6 - prompt.shape[1] :] = prompt[0], 1
    found = model.generate(batch, attention_mask=mask, max_new_tokens=8, do_sample=False)
    for n, prompt in enumerate(prompts):
        assert torch.equal(found[n, 6:], greedy(model, prompt, 8)[0, -8:])


@VARIANTS
@torch.no_grad()
def test_state_carried_through_chunks(options):
    """A long document read piece by piece gives the logits of the whole, in a cache that does not grow."""
    model = tiny.causal_lm(**options)
    document = torch.randint(0, 50, (2, 24))
    expected = model(document, use_cache=False).logits
    cache, pieces, sizes = None, [], set()
    for chunk in document.split([1, 2, 10, 1, 10], 1):
        output = model(chunk, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
        sizes.add(sum(state.numel() for state in (*cache.recurrent, *cache.convolved) if state is not None))
    torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=1e-4, rtol=1e-4)
    assert len(sizes) == 1 and cache.get_seq_length() == 24


@VARIANTS
@torch.no_grad()
def test_token_by_token(options, monkeypatch):
    """One token at a time goes through the operator of one step, and gives the logits of the whole."""
    steps = []

    for operator in (hgrn_step, mixer_step):

        def counted(*arguments, operator=operator):
            steps.append(arguments)
            return operator(*arguments)

        monkeypatch.setattr(hgrn, operator.__name__, counted)
    model = tiny.causal_lm(**options)
    document = torch.randint(0, 50, (2, 24))
    expected = model(document, use_cache=False).logits
    cache, pieces = None, []
    for token in document.split(1, 1):
        output = model(token, past_key_values=cache, use_cache=True, attention_mask=torch.ones_like(token))
        cache = output.past_key_values
        pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=1e-4, rtol=1e-4)
    assert len(steps) == 23 * model.config.num_hidden_layers, "all but the first token, which finds no state"


@torch.no_grad()
def test_beam_search_reorders_the_states():
    model = tiny.causal_lm(use_short_conv=True)
    prompt = torch.randint(0, 50, (2, 4))
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    cached = model.generate(prompt, **options)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))


def test_two_ways_are_refused():
    with pytest.raises(ValueError, match="one direction"):
        tiny.causal_lm(bidirectional=True)
