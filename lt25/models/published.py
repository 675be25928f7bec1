"""The ``config.json`` of a published model as the keys of a ``model`` section."""

from collections.abc import Mapping
from typing import Any

from lt25.config.key import Section
from lt25.tasks import decided_keys

_ROPE = {"rope_theta", "rope_scaling", "rope_parameters"}


def as_keys(config: Mapping[str, Any], known: Section | None) -> dict[str, Any]:
    """Return the fields of a ``config.json`` that an experiment may have, by their names of today.

    What the data decides, as `vocab_size` and the numbers of tokens, is left out: the prepared data says it. So is what the
    model was called on the disk of whoever wrote the file.

    Args:
        config: the fields, as read.
        known: the keys of its family; None if they are not known.
    """
    fields = {key: value for key, value in config.items() if key not in {*decided_keys(), "_name_or_path"}}
    if "torch_dtype" in fields:
        fields = {"dtype": fields.pop("torch_dtype"), **fields}
    scaling = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if known and "rope_parameters" in known and _ROPE & fields.keys() and isinstance(scaling, dict):
        base = {"rope_theta": fields["rope_theta"]} if fields.get("rope_theta") is not None else {}
        scaling = {"rope_type": scaling.get("type", "default"), **base, **scaling}
        fields = {key: value for key, value in fields.items() if key not in _ROPE}
        fields["rope_parameters"] = {key: value for key, value in scaling.items() if key != "type"}
    return fields
