"""Continuing a text, token by token.

lt25's HGRN takes its steps by itself: on a GPU several steps and the choice of their tokens are recorded as one CUDA graph, and
the host reads the tokens of one recording while the GPU is at the next. Models of other families are left to transformers.
"""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, TextStreamer
from transformers.generation.streamers import BaseStreamer

from lt25.cuda_graphs import Batch, CUDAGraphWrapper
from lt25.errors import UserError
from lt25.generation.sampling import Sampling
from lt25.models import HGRNForCausalLM
from lt25.models.auto import load_model
from lt25.models.cache import HGRNCache
from lt25.ops import argmax

# Steps to a recording: their tokens are read together.
AHEAD = 16


class Writer:
    """A model and its tokenizer, at work on prompts.

    Args:
        folder: of an exported language model.
        sampling: how tokens are chosen.
    """

    def __init__(self, folder: Path, sampling: Sampling) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # The model comes first: it makes its family known, without which transformers warns of the tokenizer.
        self.generate = Generator(load_model("language_modeling", folder, device), sampling)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def read(self, prompt: str) -> Tensor:
        """Return the tokens of a prompt, int64 [1, T].

        Raises:
            UserError: if the model does not know one of them.
        """
        ids, known = encode(self.tokenizer, prompt), self.generate.model.config.vocab_size
        # A GPU would look up a row that is not there, and say nothing.
        if (highest := int(ids.max())) >= known:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise UserError(
                f"{self.tokenizer.name_or_path}: the tokenizer gives {token!r} the number {highest}, expected less than {known}, "
                f"as many tokens as the model knows: put the model's own tokenizer there"
            )
        return ids

    def write(self, ids: Tensor, stream: bool = False) -> None:
        """Print the continuation of tokens, int64 [1, T], and an end of line; with ``stream`` words as they come."""
        decoding = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        ids = ids.to(self.generate.model.device)
        if stream:
            self.generate(ids, streamer=TextStreamer(self.tokenizer, skip_prompt=True, **decoding))
        else:
            print(self.tokenizer.decode(self.generate(ids), **decoding), flush=True)


def encode(tokenizer: Any, prompt: str) -> Tensor:
    """Return the tokens of a prompt, int64 [1, T]; of an empty one the token that stands before a text."""
    ids = tokenizer(prompt).input_ids
    if not ids:
        ids = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    return torch.tensor([ids])


class Generator:
    """Continues sequences of tokens.

    Args:
        model: a causal language model in evaluation mode.
        sampling: how tokens are chosen.

    Raises:
        UserError: if the model's class cannot generate.
    """

    def __init__(self, model: Any, sampling: Sampling) -> None:
        if not model.can_generate():
            raise UserError(
                f"{type(model).__name__} cannot write: derive it from transformers' GenerationMixin too (an evaluation does "
                "without with evaluation.new_tokens: 0)"
            )
        self.model, self.sampling = model, sampling
        ends = model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        is_recorded = isinstance(model, HGRNForCausalLM) and model.device.type == "cuda"
        self.steps = CUDAGraphWrapper(self._steps) if is_recorded else self._steps
        self.ahead = AHEAD if is_recorded else 1
        # Recordings that the GPU is given before the tokens of those before them are read: it never waits for the host.
        self.queued = 1 if is_recorded else 0
        # They depend on the weights alone, and a recording reads them where they were when it was made.
        self.lower_bounds: list[Tensor | None] | None = None

    @torch.inference_mode()
    def __call__(self, ids: Tensor, seed: int | None = None, streamer: BaseStreamer | None = None) -> list[int]:
        """Continue one sequence.

        Args:
            ids: int64 [1, T], T > 0.
            seed: in place of the sampling's.
            streamer: is given the prompt, and tokens as they are chosen.

        Returns:
            The new tokens, the end token included if there is one. The global random generators are left as they were.
        """
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(self.sampling.seed if seed is None else seed)
            if not isinstance(self.model, HGRNForCausalLM):
                return self._by_transformers(ids, streamer)
            return self._by_steps(ids, streamer)

    def _by_steps(self, ids: Tensor, streamer: BaseStreamer | None) -> list[int]:
        written = []
        if streamer is not None:
            streamer.put(ids.cpu())
        for chosen in self._chosen(ids):
            new = chosen[: self.sampling.max_new_tokens - len(written)]
            end = next((n for n, number in enumerate(new, 1) if number in self.ends), None)
            written += new[:end]
            if streamer is not None:
                streamer.put(torch.tensor(new[:end]))
            if end is not None:
                break
        if streamer is not None:
            streamer.end()
        return written

    def _chosen(self, ids: Tensor) -> Iterator[list[int]]:
        """Yield the tokens after ids, at least as many as are wanted and the last recording's to its end."""
        cache = HGRNCache(self.model.config)
        cache.lower_bounds = self.lower_bounds
        logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        self.lower_bounds = cache.lower_bounds
        token = choose(logits[:, -1], self.sampling)
        batch, unread = {"token": token, **cache.tensors()}, deque()
        yield _read(token)()
        for _ in range(-(-(self.sampling.max_new_tokens - 1) // self.ahead)):
            while len(unread) > self.queued:
                yield unread.popleft()()
            chosen, *states = self.steps([batch])
            batch = dict(zip(batch, (chosen[:, -1:], *states), strict=True))
            unread.append(_read(chosen))
        for read in unread:
            yield read()

    def _steps(self, batches: list[Batch]) -> tuple[Tensor, ...]:
        """Choose the next tokens after one: its number, int64 [1, 1], and the states before it to [1, ahead] and states."""
        (batch,) = batches
        cache, token, chosen = HGRNCache(self.model.config), batch["token"], []
        cache.lower_bounds = self.lower_bounds
        cache.restore(batch)
        for _ in range(self.ahead):
            logits = self.model(input_ids=token, past_key_values=cache, use_cache=True).logits
            token = choose(logits[:, -1], self.sampling)
            chosen.append(token)
        return torch.cat(chosen, 1), *cache.tensors().values()

    def _by_transformers(self, ids: Tensor, streamer: BaseStreamer | None) -> list[int]:
        sampling, end = self.sampling, self.model.generation_config.eos_token_id
        how: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            how = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
        found = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=end[0] if isinstance(end, list) else end,
            streamer=streamer,
            # transformers makes a cache for every model that does not say.
            use_cache=getattr(self.model.config, "use_cache", False),
            **how,
        )
        return found[0, ids.shape[1] :].tolist()


def _read(tokens: Tensor) -> Callable[[], list[int]]:
    """Have tokens [1, n] copied to the host; what is returned waits for the copy, not for what the GPU is given after it."""
    copy = tokens[0].to("cpu", non_blocking=True, copy=True)
    if not tokens.is_cuda:
        return copy.tolist
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> list[int]:
        copied.synchronize()
        return copy.tolist()

    return wait


def choose(logits: Tensor, sampling: Sampling) -> Tensor:
    """Draw the next token of each sequence, by operations that a CUDA graph can record.

    Args:
        logits: float [B, V].
        sampling: how.

    Returns:
        int64 [B, 1].
    """
    if sampling.temperature == 0:
        return argmax(logits)
    scores = logits.float() / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        ordered, order = scores.sort(descending=True)
        shares = ordered.softmax(-1)
        outside = shares.cumsum(-1) - shares >= sampling.top_p
        scores = scores.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)
    # The largest of the scores, each with noise of Gumbel's distribution, is a draw from their softmax.
    return (scores - torch.empty_like(scores).exponential_().log_()).argmax(-1, keepdim=True)
