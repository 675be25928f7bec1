"""lt25's section of a torchtitan job file; named there by ``job.custom_config_module``."""

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
class JobConfig:
    lt25: Lt25 = field(default_factory=Lt25)
