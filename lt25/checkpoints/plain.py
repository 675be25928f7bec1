"""Reading torch's distributed checkpoints without running what is in them.

A checkpoint's ``.metadata`` is a pickle, and so are its values that are no tensors; to read a pickle is to run it. Here the
metadata can name only the classes that torch writes into it, and a value can be only tensors and plain types.
"""

import io
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import set_element
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from lt25.errors import UserError

_CLASSES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
_UNREADABLE = (OSError, EOFError)


def load(states: dict[str, Any], checkpoint: Path, no_dist: bool = False) -> None:
    """Load a checkpoint into ``states``, in place, as `torch.distributed.checkpoint.load` does.

    Raises:
        UserError: if the checkpoint holds anything but tensors and plain values, or cannot be read.
    """
    # torch takes no notice of what is wrong with the metadata until it misses it.
    read_metadata(checkpoint)
    try:
        with one_process() if no_dist else nullcontext():
            dcp.load(states, storage_reader=PlainReader(checkpoint), planner=_PlainPlanner(), no_dist=no_dist)
    except CheckpointException as error:
        if any(isinstance(failure, pickle.UnpicklingError) for failure, _ in error.failures.values()):
            raise _refusal(checkpoint) from None
        missing = (
            re.search(r"Missing key in checkpoint state_dict: (.+)\.$", str(error))
            for error, _ in error.failures.values()
        )
        if name := next((match[1] for match in missing if match), None):
            raise UserError(f"{checkpoint}: holds no {name}: go on from another checkpoint, or start afresh") from None
        if why := next((failure for failure, _ in error.failures.values() if isinstance(failure, _UNREADABLE)), None):
            raise UserError(
                f"{checkpoint}: cannot be read ({why}): move it away, and go on from another checkpoint"
            ) from None
        raise


class PlainReader(FileSystemReader):
    """torch's reader of a checkpoint's files, but for metadata that names anything else than torch's own classes."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        with path.open("rb") as stream:
            metadata = _Unpickler(stream).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"expected a checkpoint's metadata, found {type(metadata).__name__}")
        for stored in (metadata.storage_data or {}).values():
            if Path(stored.relative_path).name != stored.relative_path:
                raise pickle.UnpicklingError(f"{stored.relative_path}: not a file of the checkpoint")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def read_metadata(checkpoint: Path) -> Metadata:
    """Read a checkpoint's metadata.

    Raises:
        UserError: if it holds anything but the names, places and types of tensors and values.
    """
    try:
        return PlainReader(checkpoint).read_metadata()
    except Exception:
        # What a pickle that torch has not written ends in depends on what is in it.
        raise _refusal(checkpoint) from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _CLASSES.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")


class _PlainPlanner(DefaultLoadPlanner):
    """torch's planner, but for values that are neither tensors nor plain."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        with warnings.catch_warnings():
            # torch warns of what it has not written, beside the line that refuses it.
            warnings.simplefilter("ignore")
            name, loaded = read_item.dest_index.fqn, torch.load(value, weights_only=True)
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], loaded)
        else:
            self.state_dict[name] = loaded


def _refusal(checkpoint: Path) -> UserError:
    return UserError(
        f"{checkpoint}: holds more than tensors and plain values, and reading it could run somebody's program: "
        f"move it away, and go on from another checkpoint"
    )


@contextmanager
def one_process() -> Iterator[None]:
    """Keep torch from warning that it is not distributed, which is what ``no_dist`` says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
