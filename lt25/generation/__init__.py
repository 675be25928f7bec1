"""Text written by an exported language model: ``lt25 generate``.

What can be wrong with the command is said before torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lt25.errors import UserError
from lt25.exported import exported_model
from lt25.generation.sampling import Sampling
from lt25.importing import without_compiler, without_garbage
from lt25.launch import visible_gpus
from lt25.models.families import FAMILIES, refusal
from lt25.progress import say

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_NO_TEXT = "the prompt is not UTF-8: convert it"


def generate(name: str, prompts: Sequence[str], sampling: Sampling, stream: bool = False) -> None:
    """Continue prompts with an exported model, and print each with its continuation.

    Without prompts they are asked for on a terminal, one after another; elsewhere, standard input is one.

    Args:
        name: an experiment whose model is exported, or a model's folder.
        prompts: the beginnings of texts.
        sampling: how tokens are chosen.
        stream: print words as they are written, not whole texts.

    Raises:
        UserError: if there is no such model, it cannot write here, or a prompt is no text, or none that the model can read.
    """
    folder = find_model(name)
    asked = not prompts and sys.stdin.isatty()
    try:
        if not prompts and not asked and not (prompts := [sys.stdin.read()])[0]:
            raise UserError("lt25 generate: found no prompt, neither --prompt nor on standard input: give one")
        "".join(prompts).encode()
    except UnicodeError as error:
        raise UserError(f"lt25 generate: {_NO_TEXT} ({error})") from None
    with without_garbage(), without_compiler():
        from lt25.generation.writer import Writer

    writer = Writer(folder, sampling)
    for number, (prompt, ids) in enumerate([(prompt, writer.read(prompt)) for prompt in prompts]):
        print("\n" * (number > 0) + prompt, end="", flush=True)
        writer.write(ids, stream)
    if asked:
        _converse(writer)


def find_model(name: str) -> Path:
    """Return the folder of an exported language model, after comparing it with its record if it has one.

    Args:
        name: an experiment, or a folder.

    Raises:
        UserError: if there is none, or it is no language model, lacks a tokenizer or cannot run on this machine.
    """
    folder, config = exported_model(name, "language_modeling")
    model_type = config["model_type"]
    if reason := refusal(config, "language_modeling", {}, "cuda"):
        raise UserError(f"{folder}: {reason}")
    if "cpu" not in FAMILIES[model_type].devices and not visible_gpus() and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(
            f"{folder}: found {model_type}, whose kernels need a GPU, and none here: run it where there is one"
        )
    if not any((folder / tokenizer).exists() for tokenizer in _TOKENIZERS):
        raise UserError(f"{folder}: found no tokenizer: put tokenizer.json and tokenizer_config.json beside the model")
    return folder


def _converse(writer: Any) -> None:
    """Ask for prompts until the input ends. Ctrl-C ends a text that is being written, and otherwise everything."""
    import readline  # noqa: F401  (importing it lets lines be edited and called back)

    say("Type the beginning of a text. Ctrl-C ends what is being written, Ctrl-D all.")
    while True:
        try:
            prompt = input("> ")
            prompt.encode()
            ids = writer.read(prompt)
        except EOFError:
            print()
            return
        except UnicodeError as error:
            say(f"{_NO_TEXT} ({error})")
            continue
        except UserError as error:
            say(str(error))
            continue
        try:
            writer.write(ids, stream=True)
        except KeyboardInterrupt:
            print()
