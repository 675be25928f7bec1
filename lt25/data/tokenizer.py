"""Tokenizers of text: trained on the training split, or those of another model.

Those that are trained here have a token for every byte, so that any text can be written and read back exactly: BPE (with GPT-2's
splitting of text into words, Radford et al., 2019), a unigram model (Kudo, 2018) of the same bytes, or the bytes alone. All have
the same form, that of the package tokenizers, whatever they come from.
"""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lt25.config.files import read_model
from lt25.errors import UserError
from lt25.experiment import hub_mirror, project_root
from lt25.files import write_json
from lt25.models.families import FAMILIES

END = "<|endoftext|>"
"""Ends every document, and stands before its first token in training and when it is scored; trained tokenizers have it."""

TRAINED = ("bpe", "unigram", "bytes")
"""What is trained here; any other name is a tokenizer's on the Hub, in the mirror or in a folder."""

PIECE = 1 << 20
"""A longer text is tokenized in pieces of about so many characters, cut where a line begins, if that gives the same tokens."""

ANSWER = 10
"""Seconds that the Hub has to say whether it has a tokenizer."""

PAUSES = (1, 2)
"""Seconds before it is asked again, where there is no way to it."""

_LINE = re.compile(r"(?<=\n)(?=\S)")


class Tokenizer:
    """Text to tokens.

    Args:
        model: a tokenizer of the package tokenizers.
        end: what it ends a document with, as text.

    Attributes:
        size: of the vocabulary: one more than the highest number of a token.
        end: number of the token that ends a document.
        dtype: that tokens are kept in.
    """

    def __init__(self, model: Any, end: str) -> None:
        self._model, self._end_text = model, end
        model.no_padding()
        model.no_truncation()
        # Another model's tokens may leave numbers out.
        self.size, self.end = max(model.get_vocab().values()) + 1, model.token_to_id(end)
        # A text that happens to contain the end mark is tokenized as what it is, text: no byte is lost, no document cut.
        model.encode_special_tokens = True
        self.dtype = np.uint16 if self.size <= 2**16 else np.int32
        self._divides = self._ids("x\n") + self._ids("x") == self._ids("x\nx")

    def _ids(self, text: str) -> list[int]:
        return self._model.encode(text, add_special_tokens=False).ids

    def documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of texts, each ended; all cores work on them."""
        # SentencePiece's kind writes a space before whatever it gets: a text that it got in pieces would have one before each.
        pieces = [_pieces(text) if self._divides else [text] for text in texts]
        encoded = iter(
            self._model.encode_batch_fast([piece for some in pieces for piece in some], add_special_tokens=False)
        )
        return [
            np.concatenate([*(np.array(next(encoded).ids, self.dtype) for _ in some), np.array([self.end], self.dtype)])
            for some in pieces
        ]

    def save(self, folder: Path) -> None:
        """Write what `AutoTokenizer` loads."""
        self._model.encode_special_tokens = False
        self._model.save(str(folder / "tokenizer.json"))
        self._model.encode_special_tokens = True
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": self._end_text,
                "eos_token": self._end_text,
                # A batch of prompts is padded in front, so that each is continued from its last token.
                "pad_token": self._end_text,
                "padding_side": "left",
                "clean_up_tokenization_spaces": False,
                "add_prefix_space": False,
            },
        )


def train(kind: str, texts: Iterator[str], size: int) -> Tokenizer:
    """Train a tokenizer.

    Args:
        kind: one of `TRAINED`.
        texts: to learn from.
        size: of the vocabulary; with too little text it becomes smaller. Bytes are 256, and the end.
    """
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = Model(models.Unigram() if kind == "unigram" else models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {
        "vocab_size": 257 if kind == "bytes" else size,
        "special_tokens": [END],
        "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(),
        "show_progress": False,
    }
    trainer = trainers.UnigramTrainer(**options) if kind == "unigram" else trainers.BpeTrainer(**options)
    model.train_from_iterator(iter([]) if kind == "bytes" else texts, trainer)
    return Tokenizer(model, END)


def load(folder: Path) -> Tokenizer:
    """Read what `Tokenizer.save` has written."""
    import json

    from tokenizers import Tokenizer as Model

    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return Tokenizer(Model.from_file(str(folder / "tokenizer.json")), config["eos_token"])


def here(name: str) -> Path | None:
    """Return the folder of another model's tokenizer, in the project, in the mirror or elsewhere on this machine."""
    mirror = hub_mirror()
    places = [Path(name).expanduser(), project_root() / name, *([mirror / name] if mirror else [])]
    return next((place for place in places if place.is_dir()), None)


def find_on_hub(name: str, where: str, seconds: float) -> None:
    """Make sure that the Hub has a model, or that files of it were fetched from there before.

    Args:
        name: owner/name.
        where: the file and key that name it, for messages.
        seconds: that the Hub has to answer.

    Raises:
        UserError: if it has none.
        httpx.ConnectError: if there is no way to the Hub; or whatever else its client raises.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    fetched = ("tokenizer.json", "tokenizer_config.json", "config.json")
    try:
        if not any(isinstance(try_to_load_from_cache(name, file), str) for file in fetched):
            HfApi().model_info(name, timeout=seconds)
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(_no_such(name, where)) from None


def _reach(name: str, where: str) -> None:
    """Refuse a tokenizer on the Hub that does not exist, or that there is no network for.

    The client of the Hub would ask for one file after the other, and wait most of a minute. It is left to do so where the Hub is
    there and does not answer, which may pass.

    Raises:
        UserError: as said.
    """
    import httpx

    for pause in (*PAUSES, None):
        try:
            return find_on_hub(name, where, ANSWER)
        except httpx.ConnectError as error:
            if pause is None:
                raise UserError(
                    _no_such(name, where, f"it is not here, and the Hub cannot be reached: {error}")
                ) from None
            time.sleep(pause)
        except (httpx.HTTPError, OSError):
            return None


def _no_such(name: str, where: str, reason: str = "") -> str:
    found = f"{where}: found {name}: no such tokenizer{f' ({reason})' if reason else ''}"
    return f"{found}: name {', '.join(TRAINED)}, a folder, or owner/name on the Hub"


def borrow(name: str, where: str) -> Tokenizer:
    """Take the tokenizer of another model.

    What it puts around a text is left out: a document is its own tokens, and its end.

    Args:
        name: a folder, absolute or relative to the project or to the mirror, or owner/name on the Hub.
        where: the file and key that name it, for messages.

    Raises:
        UserError: if there is none, it has no end of text, or is not of the package tokenizers' form.
    """
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = here(name)
    if folder is None:
        _reach(name, where)
    # Of a model type that it does not know transformers warns.
    if folder and (folder / "config.json").is_file():
        model_type = read_model(folder / "config.json", where).get("model_type")
        if family := FAMILIES.get(str(model_type)):
            family.load()
    try:
        found = AutoTokenizer.from_pretrained(str(folder or name))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(_no_such(name, where, reason)) from None
    if found.eos_token is None:
        raise UserError(f"{where}: {name} has no token for the end of a text: name another tokenizer")
    if getattr(found, "backend_tokenizer", None) is None:
        raise UserError(f"{where}: {name} has no fast form (tokenizer.json): convert it, or name another tokenizer")
    model = found.backend_tokenizer
    model.post_processor = processors.Sequence([])
    return Tokenizer(model, str(found.eos_token))


def _pieces(text: str) -> list[str]:
    """Cut a long text; the parts add up to it."""
    parts, at = [], 0
    while len(text) - at > 2 * PIECE:
        line = _LINE.search(text, at + PIECE, at + 2 * PIECE)
        cut = line.start() if line else at + 2 * PIECE
        parts.append(text[at:cut])
        at = cut
    return [*parts, text[at:]]
