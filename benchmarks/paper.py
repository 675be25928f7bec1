"""What training a large model over many GPUs needs, on paper: memory by part, communication, and the mesh to choose.

    python benchmarks/paper.py [--gpus 64,128,256,512] [--tokens 4194304] [--check]
    python benchmarks/paper.py --host [--gpus 2,4,8]    # the meshes that scaling.py measures on one host

A model of 7B (the sizes of config/models/transformer_7b.json) on hosts of 8 GPUs of 80 GB. For each number of GPUs, meshes of
HSDP, TP and PP are compared by the seconds of a step: operations at 40 % of the peak, plus communication that nothing hides, plus
the pipeline's bubble. ``--check`` compares the model with what torchtitan has published of Llama 3.1 8B
(https://github.com/pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md).
"""

import argparse
from dataclasses import dataclass

GIB = 2**30
# Bytes a second in one direction: NVLink between the GPUs of a host, and a GPU's network card (400 Gb/s).
NVLINK, NETWORK = 450e9, 50e9
# Of a link, what collectives reach.
REACHED = 0.7
PEAK, UTILIZATION = 989e12, 0.4
HOST = 8
# What torch, NCCL and fragmentation take beside tensors.
RESERVED = 5 * GIB
MEMORY = 80e9


@dataclass(frozen=True)
class Model:
    """Sizes of a language model with gated MLPs, and the tokens of a window."""

    layers: int = 32
    hidden: int = 4096
    intermediate: int = 14336
    vocabulary: int = 32000
    keys: int = 1024
    window: int = 4096

    @property
    def layer(self) -> int:
        """Weights of a layer."""
        return 2 * self.hidden * (self.hidden + self.keys) + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + 2 * self.vocabulary * self.hidden


SIZES = {
    "340M": Model(24, 1024, 2816, keys=1024),
    "1.3B": Model(24, 2048, 5632, keys=2048),
}
"""Of the models that scaling.py measures; HGRN's four maps of a layer are as large as attention's."""


@dataclass(frozen=True)
class Mesh:
    """Degrees, and the windows of a micro-batch."""

    replicas: int
    shards: int
    tensor: int
    pipeline: int
    windows: int = 1

    @property
    def gpus(self) -> int:
        return self.replicas * self.shards * self.tensor * self.pipeline

    @property
    def name(self) -> str:
        parts = [f"HSDP {self.replicas} x {self.shards}" if self.replicas > 1 else f"FSDP {self.shards}"]
        parts += [f"TP {self.tensor}"] if self.tensor > 1 else []
        parts += [f"PP {self.pipeline}"] if self.pipeline > 1 else []
        return " x ".join(parts)


def memory(model: Model, mesh: Mesh, recomputed: bool = True) -> dict[str, float]:
    """Return the bytes of each part on the GPU that has most.

    Args:
        model: the model.
        mesh: the mesh.
        recomputed: whether a layer's activations are computed again in the backward pass (activation_checkpoint.mode full).
    """
    stage = -(-model.layers // mesh.pipeline) * model.layer + 2 * model.vocabulary * model.hidden / min(
        mesh.pipeline, 2
    )
    own = stage / mesh.tensor
    tokens = mesh.windows * model.window
    # bfloat16: inputs of both norms, of products, of what mixes, gate and up and their product.
    of_layer = 2 * tokens * (2 * model.hidden + (4 * model.hidden + 2 * model.keys + 3 * model.intermediate))
    layers = -(-model.layers // mesh.pipeline)
    # The residual stream is shared out over the ranks of TP, and so is what a layer keeps.
    kept = layers * 2 * tokens * model.hidden + of_layer if recomputed else layers * of_layer
    waiting = mesh.pipeline  # micro-batches of the first stage in 1F1B
    return {
        "weights and Adam, float32": 12 * own / mesh.shards,
        "gradients, float32": 4 * own / mesh.shards,
        "gathered layers, bfloat16": 2 * 2 * model.layer / mesh.tensor
        + 2 * 2 * model.vocabulary * model.hidden / mesh.tensor,
        "gradients on their way": 4 * model.layer / mesh.tensor,
        "activations": waiting * kept / mesh.tensor,
        "logits of a piece": 2**28 * 2,
        "reserved": RESERVED,
    }


def traffic(model: Model, mesh: Mesh, micro: int) -> dict[str, tuple[float, float]]:
    """Return for each kind the bytes that a GPU sends in a step, and the seconds on its links.

    Args:
        model: the model.
        mesh: the mesh.
        micro: micro-batches of a step.
    """
    own = model.parameters / mesh.tensor / mesh.pipeline
    tokens = mesh.windows * model.window
    part = (mesh.shards - 1) / mesh.shards
    # With TP or stages inside a host, shards reach over hosts.
    between = NVLINK if mesh.gpus <= HOST else NETWORK
    shard_link = NVLINK if mesh.shards * mesh.tensor <= HOST else NETWORK
    again = 1 if mesh.pipeline > 1 else micro
    fsdp = part * own * (2 * 2 * again + 4 * again)
    replicas = 2 * 4 * own / mesh.shards * (mesh.replicas - 1) / mesh.replicas
    # Two gathers and two sums of [tokens, hidden] a layer, forward and backward.
    tensor = 8 * model.layers / mesh.pipeline * micro * 2 * tokens * model.hidden * (mesh.tensor - 1) / mesh.tensor
    stages = 2 * micro * 2 * tokens * model.hidden / mesh.tensor if mesh.pipeline > 1 else 0
    return {
        "FSDP": (fsdp, fsdp / (shard_link * REACHED)),
        "replicas": (replicas, replicas / (between * REACHED)),
        "TP": (tensor, tensor / (NVLINK * REACHED)),
        "PP": (stages, stages / (between * REACHED)),
    }


def seconds(model: Model, mesh: Mesh, tokens: int, recomputed: bool = True) -> tuple[float, float, int]:
    """Return the seconds of a step, the part of them that communication adds, and the micro-batches.

    Args:
        model: the model.
        mesh: the mesh.
        tokens: of a step, on all GPUs.
        recomputed: as in `memory`.
    """
    readers = mesh.replicas * mesh.shards
    micro = tokens // (readers * mesh.windows * model.window)
    # A forward pass that is computed twice makes 8 operations a weight and token of 6.
    operations = 8 if recomputed else 6
    computing = operations * model.parameters * tokens / mesh.gpus / (PEAK * UTILIZATION)
    sent = {kind: time for kind, (_, time) in traffic(model, mesh, micro).items()}
    # Shards and replicas travel beside computation; TP waits for every collective.
    shown = max(sent["FSDP"] + sent["replicas"] - 0.8 * computing, 0) + sent["TP"]
    bubble = (mesh.pipeline - 1) / micro * computing
    total = computing + shown + bubble
    return total, (total - computing) / total, micro


def meshes(gpus: int) -> list[Mesh]:
    """Return the meshes that are compared: TP inside a host, shards inside a host or over all."""
    found = []
    for tensor in (1, 2, 4, 8):
        for pipeline in (1, 2, 4):
            left = gpus // (tensor * pipeline)
            for shards in {left, max(HOST // tensor, 1), 32 // tensor}:
                if 1 < shards <= left and left % shards == 0:
                    found += [Mesh(left // shards, shards, tensor, pipeline, windows) for windows in (1, 2, 4)]
    return found


def choose(model: Model, gpus: int, tokens: int) -> list[tuple[float, float, int, Mesh]]:
    """Return the meshes whose memory suffices, the fastest first, with what `seconds` says."""
    fitting = []
    for mesh in meshes(gpus):
        step = mesh.replicas * mesh.shards * mesh.windows * model.window
        if tokens % step == 0 and sum(memory(model, mesh).values()) < 0.95 * MEMORY:
            fitting.append((*seconds(model, mesh, tokens), mesh))
    return sorted(fitting, key=lambda found: found[0])


def report(model: Model, numbers: list[int], tokens: int) -> None:
    """Print the tables of docs/scaling.md."""
    print(f"{model.parameters / 1e9:.2f} billion weights, {tokens:,} tokens a step\n")
    print(
        "| GPUs | mesh | windows x micro-batches | GiB | GB sent: FSDP, replicas, TP, PP | step s | added by communication |"
    )
    print("|" + " --- |" * 7)
    for gpus in numbers:
        best = choose(model, gpus, tokens)
        shown = [best[0], *(found for found in best if found[3].tensor > 1)][:2]
        shown += [found for found in best if found[3].pipeline > 1][:1]
        for total, share, micro, mesh in shown:
            held = sum(memory(model, mesh).values()) / GIB
            sent = ", ".join(f"{size / 1e9:.0f}" for size, _ in traffic(model, mesh, micro).values())
            print(
                f"| {gpus} | {mesh.name} | {mesh.windows} x {micro} | {held:.0f} | {sent} | {total:.2f} | {share:.0%} |"
            )
    best = choose(model, numbers[0], tokens)[0][3]
    print(f"\n| {best.name} on {numbers[0]} GPUs | GiB |\n| --- | --- |")
    for part, size in memory(model, best).items():
        print(f"| {part} | {size / GIB:.1f} |")


def times(model: Model, mesh: Mesh, tokens: int, recomputed: bool) -> float:
    """Return how many times the speed of one GPU a mesh within a host has; the arguments are those of `seconds`."""
    _, added, _ = seconds(model, mesh, tokens, recomputed)
    return mesh.gpus * (1 - added)


def within_host(numbers: list[int]) -> None:
    """Print what the meshes of scaling.py should reach, 8 windows a step for each GPU."""
    print("| model | GPUs | mesh | times one GPU | % sent in a step | GiB |\n" + "|" + " --- |" * 6)
    for size, model in SIZES.items():
        recomputed, windows = (False, 8) if size == "340M" else (True, 2)
        for gpus in numbers:
            shapes = [(gpus, 1, 1, 1), (1, gpus, 1, 1), (1, gpus // 2, 2, 1), (1, gpus // 2, 1, 2)]
            shapes[2:2] = [(2, gpus // 2, 1, 1)] if gpus > 2 else []
            for replicas, shards, tensor, pipeline in shapes:
                mesh = Mesh(replicas, shards, tensor, pipeline, 2 if pipeline > 1 else windows * tensor)
                tokens = 8 * model.window * gpus
                total, _, micro = seconds(model, mesh, tokens, recomputed)
                sent = sum(time for _, time in traffic(model, mesh, micro).values()) / total
                held = sum(memory(model, mesh, recomputed).values()) / GIB
                name = f"DDP {gpus}" if replicas == gpus else mesh.name
                print(
                    f"| {size} | {gpus} | {name} | {times(model, mesh, tokens, recomputed):.2f} | {sent:.0%} | {held:.0f} |"
                )


def check() -> None:
    """Compare with the published numbers of Llama 3.1 8B: FSDP on 8 and on 128 GPUs of 96 GB, two windows of 8192 each."""
    model = Model(vocabulary=128256, window=8192)
    state = {gpus: 16 * model.parameters / gpus / GIB for gpus in (8, 128)}
    print(f"weights: {model.parameters / 1e9:.2f} billion (published: 8.03)")
    print(f"GiB that 128 GPUs save beside 8: {state[8] - state[128]:.1f} (published: 82.4 - 67.0 = 15.4)")
    attention = 6 * model.layers * model.hidden * model.window
    for gpus, published in ((8, 5762), (128, 5605)):
        mesh = Mesh(1, gpus, 1, 1, 2)
        tokens = gpus * 2 * model.window
        sent = traffic(model, mesh, 1)["FSDP"][1]
        busy = (6 * model.parameters + attention) * tokens / gpus / PEAK
        at_33 = busy / 0.33
        print(
            f"{gpus} GPUs at 33 % of the peak: {tokens / gpus / at_33:,.0f} tokens/s a GPU (published: {published:,} at 33 %); "
            f"FSDP sends for {sent:.2f} s of a step of {at_33:.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", help="numbers of GPUs; 64,128,256,512, and 2,4,8 with --host")
    parser.add_argument("--tokens", type=int, default=2**22, help="of a step")
    parser.add_argument("--check", action="store_true", help="beside published numbers")
    parser.add_argument("--host", action="store_true", help="what scaling.py measures on the GPUs of one host")
    options = parser.parse_args()
    numbers = [int(number) for number in (options.gpus or ("2,4,8" if options.host else "64,128,256,512")).split(",")]
    if options.check:
        check()
    elif options.host:
        within_host(numbers)
    else:
        report(Model(), numbers, options.tokens)


if __name__ == "__main__":
    main()
