"""What lt25 adds to a torchtitan job file; named there by ``job.custom_config_module``."""

from dataclasses import dataclass, field


@dataclass
class Lt25:
    """What torchtitan has no key for. All paths are relative to the project directory."""

    experiment: str = ""
    """Name of the experiment: its results are in results/<experiment>"""

    model_config: str = ""
    """The model's Hugging Face config.json, complete"""

    data: str = ""
    """Directory of the prepared data"""

    init_from: str = ""
    """Exported model whose weights training starts from; empty: random weights"""


@dataclass
class Training:
    """Keys that torchtitan's section lacks."""

    cuda_graphs: bool = True
    """Record a step on a GPU once for each shape of its batch and replay it; nothing on a CPU or in several processes"""


@dataclass
class JobConfig:
    training: Training = field(default_factory=Training)
    lt25: Lt25 = field(default_factory=Lt25)
