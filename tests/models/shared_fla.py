"""Models of flash-linear-attention on texts that several processes share: what one of the processes of a test computes.

    python -m tests.models.shared_fla RANK RANKS FOLDER

On a CPU by Triton's interpreter, if the environment says so, otherwise on a GPU. The first process leaves `FOLDER/found`.
"""

import os
import sys
from typing import Any

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.models import interpret

    assert interpret

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import lt25.models.fla  # noqa: F401  FLA's families
from lt25.models.context import share_sequences
from tests.models.tiny import family_fields
from tests.ops.shared import PACKED, TIME

FAMILIES = {
    "gated_deltanet": {"num_heads": 1, "num_v_heads": 2, "expand_v": 1, "conv_size": 3},
    "rwkv7": {"fuse_norm": False},
}


def make(family: str) -> Any:
    """Make a model with weights at random, all of them: some of RWKV7's begin at zero, and would pass on nothing."""
    torch.manual_seed(0)
    fields = {**family_fields(family), **FAMILIES[family], "vocab_size": 40, "num_hidden_layers": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def results(family: str, packed: str, group: dist.ProcessGroup | None, device: str) -> dict[str, Tensor]:
    """Return what a model's base says of all tokens, in training and in evaluation, and the gradients of its weights."""
    model = make(family).to(device)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(40, (1, TIME), generator=generator).to(device)
    weight = torch.randn(1, TIME, model.config.hidden_size, generator=generator).to(device)
    bounds = torch.tensor(PACKED[packed], device=device)
    if group is not None:
        share_sequences(model, group)
        own = dist.get_rank(group), dist.get_world_size(group)
        tokens, weight = (x.chunk(own[1], 1)[own[0]].contiguous() for x in (tokens, weight))
    with torch.no_grad():
        said = model.eval().base_model(tokens, cu_seqlens=bounds).last_hidden_state
    hidden = model.train().base_model(tokens, cu_seqlens=bounds).last_hidden_state
    (hidden * weight).sum().backward()
    found = {"evaluation": said, "training": hidden.detach()}
    gradients = {name: parameter.grad for name, parameter in model.base_model.named_parameters()}
    if group is not None:
        for name, part in found.items():
            parts = [torch.empty_like(part) for _ in range(own[1])]
            dist.all_gather(parts, part.contiguous(), group=group)
            found[name] = torch.cat(parts, 1)
        for gradient in gradients.values():
            dist.all_reduce(gradient, group=group)
    return {name: value.cpu() for name, value in {**found, **gradients}.items()}


def main(rank: int, ranks: int, folder: str) -> None:
    """Compute everything, alone too if it is the first."""
    on_cpu = os.environ.get("TRITON_INTERPRET") == "1"
    torch.set_num_threads(1)
    if not on_cpu:
        torch.cuda.set_device(rank)
    device = "cpu" if on_cpu else "cuda"
    options = {"init_method": f"file://{folder}/meet", "rank": rank, "world_size": ranks}
    dist.init_process_group("gloo" if on_cpu else "nccl", **options)
    cases = [(family, packed) for family in FAMILIES for packed in PACKED]
    found = {case: results(*case, dist.group.WORLD, device) for case in cases}
    if rank == 0:
        torch.save((found, {case: results(*case, None, device) for case in cases}), f"{folder}/found")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
