"""Which training steps are recorded as CUDA graphs."""

import json
from pathlib import Path

from lt25.models.families import Family, find
from lt25.training.device import DEVICE_TYPE
from lt25.training.job_config import Job
from lt25.training.parallelize import is_replicated

REFUSAL = "training.cuda_graphs: found true, but this step cannot be recorded: use false. The reason"


def can_replay(job: Job) -> bool:
    """Whether the steps of a job are recorded: on GPUs that each compute a whole model's steps, and nothing twice."""
    whole = is_replicated(job) and job.activation_checkpoint.mode == "none"
    return job.training.cuda_graphs and DEVICE_TYPE == "cuda" and whole and _family(job).graphs


def _family(job: Job) -> Family:
    return find(json.loads(Path(job.lt25.model_config).read_text())["model_type"])
