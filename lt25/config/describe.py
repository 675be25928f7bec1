"""Resolved values for people: YAML in which a comment says where each value comes from."""

from collections.abc import Mapping
from typing import Any

import yaml


def describe(values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Return resolved values as YAML with the origin of each.

    Args:
        values: nested mappings.
        origins: where each value comes from, by dotted key; a key without an origin gets no comment.
    """
    lines = list(_lines(values, origins, "", 0))
    width = min(max((len(code) for code, _ in lines), default=0), 60)
    return "\n".join(f"{code:<{width}}  # {origin}" if origin else code for code, origin in lines)


def _lines(values: Mapping[str, Any], origins: Mapping[str, str], prefix: str, depth: int):
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and name not in origins:
            yield f"{'  ' * depth}{key}:", ""
            yield from _lines(value, origins, f"{name}.", depth + 1)
        else:
            text = yaml.safe_dump({key: value}, default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]
            yield f"{'  ' * depth}{text}", origins.get(name, "")
