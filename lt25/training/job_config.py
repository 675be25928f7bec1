"""What lt25 adds to a torchtitan job file; named there by ``job.custom_config_module``."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lt25.data.audio import HOP_SECONDS
from lt25.data.order import Reading, Share


@dataclass
class Lt25:
    """What torchtitan has no key for. All paths are relative to the project directory."""

    experiment: str = ""
    """Name of the experiment: its results are in results/<experiment>"""

    arguments: str = ""
    """What a command of lt25 takes to mean this experiment: its name, and overrides"""

    model_config: str = ""
    """The model's Hugging Face config.json, complete"""

    data: str = ""
    """Directory of the prepared data"""

    init_from: str = ""
    """Exported model whose weights training starts from; empty: random weights"""

    augment: str = "{}"
    """What is done to training examples at random, as JSON: the experiment's section of that name"""

    sounds: str = "{}"
    """Of each folder of sounds that ``augment`` names, a hash of what is in it, as JSON"""

    probabilities: list[float] = field(default_factory=lambda: [1.0])
    """Of each dataset of the prepared data, that a training example is of it"""

    plugins: list[str] = field(default_factory=list)
    """Python of the project's own, loaded first: config/config.yaml's ``plugins``"""

    digest: str = ""
    """Of this file and the model's config.json, as `lt25 configure` wrote them"""

    time_limit: float = 0.0
    """Seconds after which training saves a checkpoint and stops, at least one step on; 0: none"""

    rung: int = 0
    """Step, a rung of a sweep, after which training saves a checkpoint and ends; 0: the last"""

    fresh: bool = False
    """Train from the start; what there is of the run is moved aside"""


@dataclass
class Training:
    """Keys that torchtitan's section lacks."""

    cuda_graphs: bool = True
    """Record a step on a GPU once for each shape of its batch and replay it; nothing on a CPU or with shards"""

    fused_loss: bool = True
    """Compute a language model's head and loss together, for some tokens at a time"""

    float8: Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"] | None = None
    """torchao's recipe for products in float8; none: they are in `mixed_precision_param`"""

    z_loss: float = 0.0
    """Factor of the squared logarithm of the softmax's denominator that is added to a language model's loss"""

    label_smoothing: float = 0.0
    """Part of the probability that a classifier is to spread over all classes"""

    intermediate_ctc: float = 0.0
    """Weight of the loss of a speech recogniser's middle layer"""

    batch_seconds: float | Literal["auto"] | None = None
    """Seconds of audio in a speech recogniser's micro-batch; auto: as many as fit into memory; None: any number"""

    varlen: bool | None = None
    """Whether the documents of a window are sequences of their own; None: where the model's family can keep them apart"""

    context_len: int | None = None
    """The most tokens of such a sequence; None: as many as a document has"""


@dataclass
class Optimizer:
    """Keys that torchtitan's section lacks."""

    gate_lr: float | None = None
    """Highest learning rate of the weights of forget gates and of their lower bounds; none: `lr`"""

    gate_weight_decay: float | None = None
    """Weight decay of the same; none: `weight_decay`"""

    ema_decay: float = 0.0
    """Decay of a running mean of the weights, which is validated and exported in their place; 0: none"""


@dataclass
class Checkpoint:
    """Keys that torchtitan's section lacks."""

    keep: Literal["latest", "best"] = "latest"
    """Whether the checkpoint with the best validation metric is kept, and exported"""

    average: int = 1
    """Of how many checkpoints the mean of the weights is exported"""


@dataclass
class Metrics:
    """Keys that torchtitan's section lacks."""

    log_layer_norms: bool = False
    """Record the norms of gradients and weights of each layer"""


@dataclass
class Validation:
    """Keys that torchtitan's section lacks, and a default that differs."""

    freq: int = 0
    """Steps between two validations; 0: none"""

    steps: int = -1
    """How many training steps' worth of examples a validation takes; -1: all of the split"""

    patience: int = 0
    """Validations without improvement after which training stops; 0: it never does"""


@dataclass
class JobConfig:
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    metrics: Metrics = field(default_factory=Metrics)
    validation: Validation = field(default_factory=Validation)
    lt25: Lt25 = field(default_factory=Lt25)


Job: TypeAlias = Any
"""torchtitan's job configuration with the fields of `JobConfig` merged into it, a class that torchtitan makes at run time."""


def reading_of(job: Job, rank: int, ranks: int, training: bool) -> Reading:
    """Return how one of the ranks that read data reads it, for training or for validation."""
    section = job.training
    local, total = section.local_batch_size, section.global_batch_size
    return Reading(
        Share(local, max(total // (local * ranks), 1), rank, ranks, batch_steps(section)),
        job.debug.seed,
        training,
        section.seq_len,
        section.varlen is not False,
        section.context_len or 0,
        tuple(job.lt25.probabilities),
        section.batch_seconds == "auto",
    )


def batch_steps(training: Any) -> int:
    """Return how many frames a micro-batch has, 0 where any number, or as many as are still to be found.

    Args:
        training: a job's section of that name.
    """
    seconds = training.batch_seconds
    return 0 if seconds in (None, "auto") else max(round(seconds / HOP_SECONDS), 1)
