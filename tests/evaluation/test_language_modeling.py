import gzip
import lzma
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lt25.errors import UserError
from lt25.evaluation import language_modeling as language
from lt25.evaluation.compression import compressors
from lt25.models import HGRNConfig, HGRNForCausalLM
from lt25.models.families import FAMILIES

from .fakes import ByteTokenizer, FakeSplit, SumModel, options


def by_hand(model, document, start):
    """-log p of each token, one document at a time, in one piece."""
    tokens = torch.cat([torch.tensor([start]), document])
    p = model.table[tokens.cumsum(0) % 64].log_softmax(-1)
    return -p[torch.arange(len(document)), document].numpy()


def documents_of(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 9, (n,), generator=generator) for n in lengths]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_state_is_carried_through_a_document_and_not_into_the_next(monkeypatch, batch_size):
    monkeypatch.setitem(language.TOKENS_PER_STEP, "cpu", 128)
    documents = documents_of(5, 700, 1, 650, 129, 600)
    model = SumModel(9)
    nats = language.token_nats(model, documents, 7, batch_size, "test")
    for document, measured in zip(documents, nats, strict=True):
        np.testing.assert_allclose(measured, by_hand(model, document, 7), rtol=1e-5)
    assert model.longest <= 128


def test_a_model_without_a_state_is_refused_where_it_would_matter():
    class Forgetful(SumModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.past_key_values = None
            return output

    language.token_nats(Forgetful(9), documents_of(100), 7, 1, "test")
    with pytest.raises(UserError, match="no state"):
        language.token_nats(Forgetful(9), documents_of(language.TOKENS_PER_STEP["cpu"] + 1), 7, 1, "test")


def test_without_a_state_a_document_is_read_at_once_and_its_logits_come_in_pieces(monkeypatch):
    """A family that claims no state gives the numbers of one that has it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 9, "initializer_range": 0.3}
    model = HGRNForCausalLM(HGRNConfig(**sizes)).eval()
    monkeypatch.setitem(language.TOKENS_PER_STEP, "cpu", 64)
    documents = documents_of(5, 150, 90)
    expected = language.token_nats(model, documents, 7, 3, "test")
    monkeypatch.setitem(FAMILIES, "lt25_hgrn", replace(FAMILIES["lt25_hgrn"], state=False))
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", None)
        found = language.token_nats(model, documents, 7, 3, "test")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize(("length", "window"), [(1, 8), (8, 8), (9, 8), (29, 8), (28, 8), (30, 7), (5, 1), (100, None)])
def test_spans_ask_for_each_token_once_with_half_a_window_in_sight(length, window):
    found = language.spans(length, window)
    asked = [token for _, counted, end in found for token in range(counted, end)]
    assert asked == list(range(length))
    for begin, counted, end in found:
        assert begin <= counted < end and end - begin <= (window or length)
        assert begin == 0 or counted - begin >= window // 2


def test_attention_reads_no_further_than_it_is_made_for(monkeypatch):
    """Each span of a long document gives what the model says of it alone."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlamaConfig(vocab_size=9, max_position_embeddings=16, initializer_range=0.3, **sizes)
    model = LlamaForCausalLM(config).eval()
    monkeypatch.setitem(language.TOKENS_PER_STEP, "cpu", 64)
    documents = documents_of(16, 61, 5)
    found = language.token_nats(model, documents, 7, 3, "test")
    for document, nats in zip(documents, found, strict=True):
        tokens = torch.nn.functional.pad(document, (1, 0), value=7)
        for begin, counted, end in language.spans(len(document), 16):
            with torch.no_grad():
                log_p = model(input_ids=tokens[None, begin:end]).logits[0].log_softmax(-1)
            expected = -log_p[torch.arange(end - begin), tokens[begin + 1 : end + 1]]
            np.testing.assert_allclose(nats[counted:end], expected[counted - begin :], rtol=1e-4)


def test_documents_of_like_length_are_measured_together():
    bits, sizes = [10.0, 40.0, 3000.0, 0.0], [10, 1023, 1024, 0]
    rows = language.by_length(bits, sizes)
    assert [(row["from"], row["to"], row["documents"], row["bytes"]) for row in rows] == [
        (0, 1024, 3, 1033),
        (1024, 2048, 1, 1024),
    ]
    assert rows[0]["bits_per_byte"] == pytest.approx(50 / 1033)
    assert language.by_length([], []) == []


def test_batches_hold_each_document_once_and_waste_little():
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 20_000, 200)]
    batches = language.batches_of_like_length(lengths, 16)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    padded = sum(len(batch) * lengths[batch[0]] for batch in batches)
    assert padded < 1.2 * sum(lengths)
    assert max(map(len, batches)) <= 16


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    nats = [np.full(10, math.log(32)), np.full(6, math.log(32))]
    metrics = language.score(nats, [20, 12])
    assert metrics["perplexity"] == pytest.approx(32)
    assert metrics["nats_per_token"] == pytest.approx(math.log(32))
    # 16 tokens of 5 bits over 32 bytes
    assert metrics["bits_per_byte"] == pytest.approx(16 * 5 / 32)
    assert (metrics["tokens"], metrics["bytes"], metrics["documents"]) == (16, 32, 2)


def test_bits_by_position_average_over_the_documents_that_reach_it():
    nats = [np.full(20, math.log(2)), np.concatenate([np.full(16, 3 * math.log(2)), np.full(24, math.log(4))])]
    rows = language.by_position(nats)
    assert [(row["from"], row["to"], row["tokens"]) for row in rows] == [(0, 16, 32), (16, 32, 20), (32, 40, 8)]
    assert [row["bits_per_token"] for row in rows] == pytest.approx([2.0, (4 * 1 + 16 * 2) / 20, 2.0])


def test_compressors_are_those_of_the_command_line():
    data = b"the same words, the same words, the same words\n" * 50
    sizes = compressors(data)
    assert sizes["gzip -9"] == pytest.approx(8 * len(gzip.compress(data, 9)) / len(data))
    assert sizes["xz -9"] == pytest.approx(8 * len(lzma.compress(data, preset=9)) / len(data))
    assert compressors(b"") == {}


def texts_split(*texts):
    return FakeSplit([[*text.encode(), 256] for text in texts])


def test_the_cap_takes_whole_documents_and_is_reported():
    texts = ["ä" * n for n in (50, 300, 70, 20, 90)]
    split = texts_split(*texts)
    indices, chosen = language.choose_documents(split, ByteTokenizer(), 200)
    assert indices == sorted(indices)
    assert chosen == [texts[i] for i in indices]
    assert sum(len(text.encode()) for text in chosen) >= 200
    assert len(indices) < 5
    assert language.choose_documents(split, ByteTokenizer(), 200)[0] == indices
    assert language.choose_documents(split, ByteTokenizer(), None)[1] == texts


def test_bytes_not_characters_are_counted_and_the_end_of_a_text_is_predicted():
    split = texts_split("aé", "b")
    metrics, table = language.predict(SumModel(257), split, ByteTokenizer(), options("language_modeling"), "test")
    assert (metrics["bytes"], metrics["tokens"]) == (4, 6)
    expected = by_hand(SumModel(257), torch.tensor([*"aé".encode(), 256]), 256)
    assert table["bits"][0] == pytest.approx(expected.sum() / math.log(2), rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(table["bits"].sum() / 4)
    assert "samples" not in metrics


def test_a_vocabulary_that_leaves_numbers_out_is_guessed_by_frequency_too():
    class Sparse(ByteTokenizer):
        eos_token_id = 300

        def __len__(self):
            return 257

    split = FakeSplit([[*b"a", 300]])
    train = SimpleNamespace(shards={"inputs": torch.tensor([*b"aa", 300])})
    settings = options("language_modeling", new_tokens=0)
    metrics, _ = language.predict(SumModel(301), split, Sparse(), settings, "test", train)
    assert metrics["baselines"]["unigram"] == pytest.approx(-math.log2(3 / 304) - math.log2(2 / 304))


def test_an_empty_split_says_so():
    with pytest.raises(UserError, match="no text"):
        language.predict(SumModel(257), texts_split("", ""), ByteTokenizer(), options("language_modeling"), "test")


def test_prompts_are_whole_lines():
    texts = ["one\ntwo\n" + "x" * 300, "\n" + "y" * 300, "   \n", "short"]
    assert language.first_lines_of_three(texts) == ["one\ntwo\n", "\n" + "y" * 159, "short"]
    assert language.first_lines_of_three([" "]) == []
