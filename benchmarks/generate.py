"""Generation, one token at a time: lt25's HGRN by its own steps and by transformers, and flash-linear-attention's.

    python benchmarks/generate.py                   # HGRN 340M, vocabulary 32,000
    python benchmarks/generate.py --small           # a tiny one: does it run?
    python benchmarks/generate.py --model config/models/hgrn_lm_340m.json --only lt25

Weights are random, in bfloat16 on a GPU and float32 on a CPU; the batch is one text. Reported are tokens a second after a
first text, which compiles and records, and how often the weights can be read in a second. On a GPU, the tokens are compared with
a forward pass over the whole text: how far the logit of a chosen token is from the largest, in standard deviations of the
logits, at most. And the kernels that take longest are listed.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from lt25.launch import waiting

os.environ.update(waiting())

import torch

from lt25.generation.sampling import Sampling
from lt25.generation.writer import Generator
from lt25.models import HGRNConfig, HGRNForCausalLM

ROOT = Path(__file__).parents[1]
PROMPT = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "config" / "models" / "hgrn_lm_340m.json")
    parser.add_argument("--small", action="store_true", help="a tiny model and few tokens")
    parser.add_argument("--tokens", type=int, default=0, help="to a text; default: 2048 on a GPU, 32 on a CPU")
    parser.add_argument("--only", choices=["lt25", "fla"], help="one of the models")
    options = parser.parse_args()
    fields = json.loads(
        (ROOT / "config" / "models" / "hgrn_lm_tiny.json" if options.small else options.model).read_text()
    )
    fields = {"vocab_size": 32000, **{k: v for k, v in fields.items() if k not in ("model_type", "architectures")}}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = options.tokens or (2048 if device == "cuda" and not options.small else 32)
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'}, "
          f"torch {torch.__version__}, {tokens} tokens a text")  # fmt: skip
    torch.manual_seed(0)
    if options.only != "fla":
        lt25(HGRNForCausalLM(HGRNConfig(**fields)), device, tokens)
    if options.only != "lt25" and device == "cuda":
        from fla.models import HGRNConfig as PeerConfig
        from fla.models import HGRNForCausalLM as Peer

        peer = place(Peer(PeerConfig(**fields)), device)
        by_transformers("flash-linear-attention, transformers' generate", peer, min(tokens, 256))


def place(model: torch.nn.Module, device: str) -> torch.nn.Module:
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).eval().requires_grad_(False)


def lt25(model: HGRNForCausalLM, device: str, tokens: int) -> None:
    model = place(model, device)
    # An embedding that is not tied is read a row at a time.
    read = sum(each.nbytes for each in model.parameters())
    if not model.config.tie_word_embeddings:
        read -= model.model.embeddings.weight.nbytes
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    print(
        f"{millions:.0f}M parameters, of which a step reads {read / 2**20:.0f} MiB; {reads(read, device):,.0f} times a second"
    )
    prompt = torch.randint(model.config.vocab_size, (1, PROMPT)).to(device)
    for name, sampling in {
        "likeliest token": Sampling(tokens, temperature=0),
        "temperature": Sampling(tokens, temperature=0.8),
        "temperature, top_k and top_p": Sampling(tokens, temperature=0.8, top_k=50, top_p=0.95),
    }.items():
        generate = Generator(model, sampling)
        report(f"lt25, {name}", lambda generate=generate: generate(prompt), tokens)
        if sampling.temperature == 0 and device == "cuda":
            compare(model, prompt, generate(prompt))
            kernels(lambda generate=generate: generate(prompt), tokens)
    by_transformers("lt25, transformers' generate", model, min(tokens, 256))


def by_transformers(name: str, model, tokens: int) -> None:
    prompt = torch.randint(model.config.vocab_size, (1, PROMPT)).to(model.device)
    options = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
    report(name, lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **options), tokens)


def report(name: str, write: Callable[[], object], tokens: int, texts: int = 3) -> None:
    """Print the tokens a second of the best of several texts, and the seconds of the one before them."""
    times = []
    for _ in range(1 + texts):
        started = time.perf_counter()
        write()
        times.append(time.perf_counter() - started)
    print(f"{name}: {tokens / min(times[1:]):,.0f} tokens a second; the first text took {times[0]:.1f} s", flush=True)


def reads(size: int, device: str, rounds: int = 10) -> float:
    """How often a second memory of this size can be read."""
    memory, best = torch.ones(size // 4, device=device), float("inf")
    for _ in range(5):
        started = time.perf_counter()
        sums = [memory.sum() for _ in range(rounds)]
        sums[-1].item()
        best = min(best, (time.perf_counter() - started) / rounds)
    return 1 / best


@torch.inference_mode()
def compare(model: HGRNForCausalLM, prompt: torch.Tensor, written: list[int]) -> None:
    written = written[:512]
    ids = torch.cat((prompt, torch.tensor([written], device=prompt.device)), 1)
    logits = model(input_ids=ids).logits[0, prompt.shape[1] - 1 : -1].float()
    gap = logits.amax(-1) - logits.gather(-1, ids[0, prompt.shape[1] :, None])[:, 0]
    print(f"  logits of chosen tokens: at most {(gap.max() / logits.std()).item():.2g} deviations below the largest")


def kernels(write: Callable[[], object], tokens: int) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        write()
    rows = sorted(profile.key_averages(), key=lambda row: -row.device_time_total)
    for row in rows[:12]:
        print(f"  {row.device_time_total / tokens:8.2f} us a token in {row.count / tokens:6.1f} of {row.key[:90]}")
    print(
        f"  {sum(row.device_time_total for row in rows) / tokens:8.2f} us a token in all kernels, overlapping ones twice"
    )


if __name__ == "__main__":
    main()
