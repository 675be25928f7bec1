"""Products in float8: torchtitan's converter, which puts torchao's linear layers in the place of torch's."""

import json
from importlib.util import find_spec
from pathlib import Path

import torch

from lt25.errors import UserError
from lt25.models.families import find
from lt25.training.device import DEVICE_TYPE, device_name
from lt25.training.job_config import Job


def use_float8(job: Job) -> None:
    """Tell torchtitan, in its own sections of a job, what ``training.float8`` asks for.

    Heads stay as they are: their outputs are what a loss is sensitive to, and a language model's is computed with its loss.

    Raises:
        UserError: if the device has no such products, or the package torchao is not there.
    """
    if (recipe := job.training.float8) is None:
        return
    found = f"training.float8: found {recipe}"
    if DEVICE_TYPE != "cuda" or torch.cuda.get_device_capability() < (8, 9):
        raise UserError(f"{found}, but {device_name()} has no products in float8: remove the key")
    if find_spec("torchao") is None:
        raise UserError(f"{found}, which needs the package torchao: install it, or remove the key")
    family = find(json.loads(Path(job.lt25.model_config).read_text())["model_type"])
    job.model.converters = ["quantize.linear.float8"]
    job.quantize.linear.float8.recipe_name = recipe
    job.quantize.linear.float8.filter_fqns = [f"hf.{head}" for head in family.heads.values()]
