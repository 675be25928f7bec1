"""Texts continued by small untrained models, and what `lt25 generate` says when it cannot."""

import builtins
import io
import json
import shutil
from unittest.mock import Mock

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lt25 import cli
from lt25.cuda_graphs import CUDAGraphWrapper
from lt25.errors import UserError
from lt25.generation import find_model, writer
from lt25.generation.sampling import Sampling
from lt25.generation.writer import Generator, choose, encode
from lt25.models import HGRNConfig, HGRNForCausalLM
from tests.training.test_cuda_graphs import Recorder

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 257, "use_short_conv": True, "initializer_range": 0.3}
IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported model whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {"<|endoftext|>": 0, **{c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    HGRNForCausalLM(HGRNConfig(**SIZES, **IDS)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return HGRNForCausalLM.from_pretrained(folder).eval()


PROMPT = torch.tensor([[5, 7, 9]])


def test_the_likeliest_tokens_are_those_of_transformers(model):
    expected = model.generate(PROMPT, max_new_tokens=12, do_sample=False)[0, 3:].tolist()
    assert Generator(model, Sampling(12, temperature=0))(PROMPT) == expected


@pytest.mark.parametrize("queued", [0, 1])
def test_recorded_steps_choose_what_single_ones_do(model, queued):
    """Whatever number of tokens a recording has, and where the end token stands among them."""
    for sampling in (Sampling(13, temperature=0), Sampling(13, temperature=0.9, top_k=20, top_p=0.9)):
        expected = Generator(model, sampling)(PROMPT)
        generate = Generator(model, sampling)
        generate.ahead, generate.queued = 5, queued
        generate.steps = CUDAGraphWrapper(
            generate._steps, warm=lambda function, given: function(given), record=Recorder()
        )
        assert generate(PROMPT)[:6] == expected[:6]
        bounds = generate.lower_bounds
        if sampling.temperature == 0:
            assert generate(PROMPT) == expected
            assert generate.steps.record.count == 1
            assert generate.lower_bounds is bounds
        generate.ends = {expected[8]}
        ended = expected[: expected.index(expected[8]) + 1]
        if sampling.temperature == 0:
            assert generate(PROMPT) == ended


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("hidden", [64, 1024])
def test_on_a_gpu_the_recorded_steps_choose_the_likeliest_tokens(hidden):
    """Kernels that read their weights early wait for the rows that they multiply them with."""
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "num_hidden_layers": 6, "vocab_size": 4000, "initializer_range": 0.1}
    model = HGRNForCausalLM(HGRNConfig(**sizes)).to("cuda", torch.bfloat16).eval()
    prompt = torch.randint(4000, (1, 9), device="cuda")
    generate = Generator(model, Sampling(300, temperature=0))
    written = generate(prompt)
    assert len(written) == 300
    # What the recording reads is still there when other work has taken what was freed.
    filled = [torch.full((hidden,), 0.9, device="cuda") for _ in range(1000)]
    assert generate(prompt) == written == generate(prompt)
    del filled
    ids = torch.cat((prompt, torch.tensor([written], device="cuda")), 1)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, 8:-1].float()
    below = logits.amax(-1) - logits.gather(-1, ids[0, 9:, None])[:, 0]
    assert below.max() < 0.1 * logits.std()


def test_equal_seeds_give_equal_texts_and_leave_the_generator_alone(model):
    generate, state = Generator(model, Sampling(6, seed=3)), torch.get_rng_state()
    assert generate(PROMPT) == generate(PROMPT) != generate(PROMPT, seed=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_what_top_k_and_top_p_leave_is_drawn_and_as_often_as_it_is_probable():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(20_000, 4)
    torch.manual_seed(0)

    def shares(**options):
        return (choose(logits, Sampling(**options))[:, 0].bincount(minlength=4) / len(logits)).tolist()

    assert shares(temperature=1) == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.015)
    assert shares(temperature=0.5) == pytest.approx([16 / 30, 9 / 30, 4 / 30, 1 / 30], abs=0.015)
    assert shares(temperature=1, top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.015)
    assert shares(temperature=1, top_p=0.75) == pytest.approx([4 / 9, 3 / 9, 2 / 9, 0], abs=0.015)
    assert shares(temperature=1, top_p=0.01) == [1, 0, 0, 0]
    assert shares(temperature=0) == [1, 0, 0, 0]


def test_another_family_is_left_to_transformers():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=20, eos_token_id=None)).eval()
    generate = Generator(llama, Sampling(6, top_k=5))
    assert len(generate(PROMPT)) == 6
    assert generate(PROMPT) == generate(PROMPT)


def test_an_empty_prompt_begins_with_the_token_before_a_text(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert encode(tokenizer, "").tolist() == [[0]]
    assert encode(tokenizer, "ab").shape == (1, 2)


def run(capfd, *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["generate", *arguments])
    said = capfd.readouterr()
    return status, said.out, said.err


def test_prompts_are_printed_with_their_continuations_streamed_or_not(folder, capfd, monkeypatch):
    options = ("--max_new_tokens", "12", "--seed", "5")
    status, whole, _ = run(capfd, str(folder), "--prompt", "def f(", "x =", *options)
    assert status == 0
    assert whole.startswith("def f(") and "\nx =" in whole
    assert run(capfd, str(folder), "--prompt", "def f(", "x =", "--stream", *options)[1] == whole
    monkeypatch.setattr("sys.stdin", io.StringIO("x ="))
    assert run(capfd, str(folder), *options)[1] == whole[whole.index("\nx =") + 1 :]


def test_a_token_that_the_model_does_not_know_is_one_line(folder, tmp_path, capfd, monkeypatch):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["<later>"])
    tokenizer.save_pretrained(tmp_path)
    options = ("--max_new_tokens", "3", "--temperature", "0")
    # A tokenizer may know more than the model, as long as a prompt has none of it.
    assert run(capfd, str(tmp_path), "--prompt", "x =", *options) == run(
        capfd, str(folder), "--prompt", "x =", *options
    )
    status, out, said = run(capfd, str(tmp_path), "--prompt", "x =", "a <later>", *options)
    assert (status, out) == (2, "")
    assert said == (
        f"lt25: error: {tmp_path}: the tokenizer gives '<later>' the number 257, expected less than 257, as many tokens as the "
        f"model knows: put the model's own tokenizer there\n"
    )
    # On a terminal the next prompt is asked for.
    monkeypatch.setattr("sys.stdin", Mock(isatty=lambda: True))
    monkeypatch.setattr(builtins, "input", Mock(side_effect=["a <later>", EOFError]))
    status, _, said = run(capfd, str(tmp_path), *options)
    assert status == 0 and "the tokenizer gives '<later>'" in said


def test_on_a_terminal_prompts_are_asked_for_and_ctrl_c_ends_a_text(folder, capfd, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    asked = iter(["one", "half of a \udcff character", "two"])

    def ask(prompt):
        try:
            return next(asked)
        except StopIteration:
            raise EOFError from None

    calls, plain = [], Generator.__call__

    def interrupted(self, ids, **options):
        calls.append(ids)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return plain(self, ids, **options)

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setattr(Generator, "__call__", interrupted)
    status, _, said = run(capfd, str(folder), "--max_new_tokens", "3")
    assert (status, len(calls)) == (0, 2)
    assert "Ctrl-D" in said and "the prompt is not UTF-8: convert it" in said


def test_the_model_makes_its_family_known_before_the_tokenizer_is_read(folder, model, monkeypatch):
    """Of a model type that it does not know transformers warns."""
    order = []
    monkeypatch.setattr(writer, "load_model", lambda *of: order.append("model") or model)
    monkeypatch.setattr(writer.AutoTokenizer, "from_pretrained", lambda *of, **how: order.append("tokenizer"))
    writer.Writer(folder, Sampling())
    assert order == ["model", "tokenizer"]


@pytest.mark.parametrize("errors", ["surrogateescape", "strict"])
def test_a_prompt_of_other_bytes_is_one_line(folder, capfd, monkeypatch, errors):
    """What standard input makes of such bytes depends on the locale."""
    stdin = io.TextIOWrapper(io.BytesIO(b"h\xff"), encoding="utf-8", errors=errors)
    monkeypatch.setattr("sys.stdin", stdin)
    status, _, said = run(capfd, str(folder))
    assert status == 2 and said.startswith("lt25: error: lt25 generate: the prompt is not UTF-8: convert it")
    assert said.count("\n") == 1


def test_what_cannot_be_continued_is_one_line(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(UserError, match="so no exported model"):
        find_model(str(tmp_path / "nowhere"))
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"architectures": ["HGRNForCTC"]}, "found HGRNForCTC, expected a language model"),
        ({"model_type": "gpt9"}, "model_type: found gpt9, .*: for a model of your own be in the project whose config"),
        ({"model_type": "gla", "architectures": ["GLAForCausalLM"]}, "found gla, whose kernels need a GPU"),
        ({}, "found no tokenizer"),
    ):
        (other / "config.json").write_text(json.dumps({**config, **change}))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with pytest.raises(UserError, match=message):
            find_model(str(other))
    assert run(capfd, str(folder))[0] == 2
    assert run(capfd, str(folder), "--prompt", "a", "--temperature", "-1")[2].count("\n") == 1
