"""One key of a configuration file: type, default, bounds, meaning, and whether it decides where a run arrives.

A section is a mapping from names to keys. It stands in one place, and everything else is made from it: the check of a file,
the defaults that are filled in, the identity of a run, and the tables of docs/.
"""

import copy
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lt25.errors import UserError

REQUIRED = object()
"""The default of a key that a file must have."""

OPTIONAL = object()
"""The default of a key that has no value where a file does not give it one."""

Section = Mapping[str, "Key"]

FEW = 12
"""So many names are listed in a message; more are not."""


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        type: JSON's name of the value's type, or several: "boolean", "integer", "number", "string", "array", "object", "null".
        default: what stands where a file says nothing; `REQUIRED` for a key that must be given, `OPTIONAL` for one that then
            has no value.
        meaning: one line for people, with the unit.
        identity: True if the value decides where a run (for ``prepare``: the prepared data; for ``evaluation``: the numbers)
            arrives, False if it changes speed, layout or record only. Every key must say which.
        bounds: further conditions in JSON Schema's words, for example ``{"minimum": 1}`` or ``{"enum": ["a", "b"]}``; a
            ``$comment`` among them says the rule in words, for a message.
        keys: of an object, its own keys; None for any.
    """

    type: str | tuple[str, ...]
    default: Any
    meaning: str
    identity: bool
    bounds: Mapping[str, Any] = field(default_factory=dict)
    keys: Section | None = None

    def schema(self) -> dict[str, Any]:
        """Return the key's JSON schema (draft 2020-12)."""
        kinds = self.type if isinstance(self.type, str) else list(self.type)
        inner = schema(self.keys) if self.keys is not None else {}
        return {"type": kinds, "description": self.meaning, **inner, **self.bounds}


def schema(section: Section) -> dict[str, Any]:
    """Return the JSON schema of a section: an object that has no other keys."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, key in section.items() if key.default is REQUIRED],
        "properties": {name: key.schema() for name, key in section.items()},
    }


def check(values: Any, section: Section, where: str, synonyms: Mapping[str, str] | None = None) -> None:
    """Compare values with a section.

    Args:
        values: what a file says.
        section: what it may say.
        where: the file, for messages.
        synonyms: as of `meant`.

    Raises:
        UserError: if anything is wrong, a line each: file, key, what was found, what is allowed.
    """
    # Imported here, because a trainer reads no experiment file.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match, relevance

    errors = sorted(Draft202012Validator(schema(section)).iter_errors(values), key=relevance, reverse=True)
    # A value of another type breaks its bounds too, which says nothing more.
    mistyped = {tuple(error.absolute_path) for error in errors if error.validator == "type"}
    errors = [one for one in errors if one.validator == "type" or tuple(one.absolute_path) not in mistyped]
    lines = [line for error in errors for line in explain(best_match([error]), section, synonyms)]
    # JSON Schema's bounds let them pass.
    odd = {name: one for name, one in _scalars(flat(values)) if isinstance(one, int | float) and not _is_finite(one)}
    lines += [
        f"{name}: found {value if isinstance(value, float) else show(value)}, expected a finite number"
        for name, value in odd.items()
    ]
    if lines:
        raise UserError(*(f"{where}: {line}" for line in lines))


def resolve(values: Mapping[str, Any], section: Section) -> dict[str, Any]:
    """Return values with every default of a section filled in, in the section's order.

    Numbers have the type of their key, so that 1 and 1.0 are the same value.
    """
    resolved = {}
    for name, key in section.items():
        value = values.get(name, key.default)
        if key.keys is not None and (isinstance(value, Mapping) or value is REQUIRED):
            value = resolve({} if value is REQUIRED else value, key.keys)
        if value is not REQUIRED and value is not OPTIONAL:
            resolved[name] = _typed(copy.deepcopy(value), key.type)
    return resolved


def _scalars(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield values by their names, those of lists and of what is in them one by one: ``gain_db[1]``."""
    for name, value in values.items():
        if isinstance(value, list):
            yield from _scalars({f"{name}[{number}]": one for number, one in enumerate(value)})
        elif isinstance(value, Mapping):
            yield from _scalars({f"{name}.{key}": one for key, one in value.items()})
        else:
            yield name, value


def _is_finite(value: float) -> bool:
    """Whether a number is one that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _typed(value: Any, kinds: str | tuple[str, ...]) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        numeric = {kinds} if isinstance(kinds, str) else set(kinds) - {"null", "string"}
        # What is no such number stays as it is, for `check` to complain of.
        if numeric == {"number"} and _is_finite(value):
            return float(value)
        if numeric == {"integer"} and value % 1 == 0:
            return int(value)
    return value


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, whose keys have dots: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    if not isinstance(values, Mapping) or not (values or prefix):
        return {prefix: values} if prefix else {}
    if not values:
        return {prefix: {}}
    return {
        name: value for key, part in values.items() for name, value in flat(part, f"{prefix}.{key}".strip(".")).items()
    }


def identity(values: Mapping[str, Any], section: Section) -> dict[str, Any]:
    """Return those of a section's resolved values that decide where a run arrives."""
    decisive = {}
    for name, key in section.items():
        if name not in values:
            continue
        if key.keys is not None and isinstance(values[name], Mapping):
            if inner := identity(values[name], key.keys):
                decisive[name] = inner
        elif key.identity:
            decisive[name] = values[name]
    return decisive


def meant(key: str, section: Section, synonyms: Mapping[str, str] | None = None) -> str | None:
    """Return what a dotted key that a section does not have is called, or None if that is not known.

    Args:
        key: what was found.
        section: the keys that there are.
        synonyms: dotted keys that people know from elsewhere -> what they are called here. Any other key may have been put into
            the wrong section: ``training.seed`` is ``debug.seed``.
    """
    name = key.rpartition(".")[2]
    same = [one for one in _dotted(section) if one.rpartition(".")[2] == name]
    return (synonyms or {}).get(key) or (same[0] if len(same) == 1 else None)


def _dotted(section: Section, prefix: str = "") -> Iterator[str]:
    """Yield the keys that have a value of their own."""
    for name, key in section.items():
        if key.keys is None:
            yield f"{prefix}{name}"
        else:
            yield from _dotted(key.keys, f"{prefix}{name}.")


def suggestion(name: str, known: Iterable[Any], listed: str, meant: str | None = None) -> str:
    """Say what a name that is not known may have been meant for: "did you mean lr? There are beta1, ..., lr".

    Args:
        name: what was found.
        known: the names that there are.
        listed: what shows them, where they are too many for a line.
        meant: what it was meant for; None: the one of the names that is spelt most like it, if any is.
    """
    names = [str(one) for one in known]
    close = [meant] if meant else difflib.get_close_matches(str(name), names, 1)
    # What `listed` names, a command or a file, keeps its spelling at the beginning of a sentence.
    there = "There are" if close else "there are"
    shown = f"{listed} shows all {len(names)}" if len(names) > FEW else f"{there} {', '.join(names) or 'none'}"
    return f"did you mean {close[0]}? {shown}" if close else shown


def show(value: Any) -> str:
    """Return a value as a message shows it, cut to 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) < 60 else f"{text[:57]}..."


WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "array": "a list",
    "object": "keys and values",
    "null": "null",
}
"""What people call JSON's types."""


def path(parts: Iterable[str | int]) -> str:
    """Return a dotted key as people write it, ``splits.test[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def explain(error: Any, section: Section, synonyms: Mapping[str, str] | None = None) -> list[str]:
    """Say what a schema violation means: key, found, allowed; a line a mistake.

    Args:
        error: a `jsonschema.ValidationError`.
        section: all keys that there are.
        synonyms: as of `meant`.
    """
    if error.validator != "additionalProperties":
        return [_explain(error)]
    allowed, at = sorted(error.schema.get("properties", {})), list(error.absolute_path)
    rule = f"; {error.schema['$comment']}" if "$comment" in error.schema else ""
    lines = []
    for name in (str(name) for name in error.instance if name not in allowed):
        # Of a section that does not exist, and is none misspelt, the keys may be known.
        value = None if difflib.get_close_matches(name, allowed, 1) else error.instance.get(name)
        key = path([*at, name])
        found = {one: meant(one, section, synonyms) for one in (key, *flat(value, key))}
        for one in [key] if found[key] else [one for one, known in found.items() if known] or [key]:
            hint = suggestion(name, allowed, "`lt25 config`", found[one])
            lines.append(f"{one}: unknown key: {hint}{rule}")
    return lines


def _explain(error: Any) -> str:
    key = path(error.absolute_path)
    at, rule = f"{key}: " if key else "", error.validator_value
    found = f"{at}found {show(error.instance)}"
    match error.validator:
        case "required":
            missing = next(name for name in rule if name not in error.instance)
            meaning = error.schema.get("properties", {}).get(missing, {}).get("description", "")
            return f"{at.replace(': ', '.')}{missing}: missing{': ' + meaning if meaning else ''}"
        case "enum":
            return f"{found}, allowed: {', '.join(str(value) for value in rule)}"
        case "type":
            kinds = [rule] if isinstance(rule, str) else rule
            # YAML takes yes, no, on and off for true and false, and 7 for a number.
            meant = "string" in kinds and not {"number", "integer"} & {*kinds}
            quotes = ": write it in quotes" if meant and isinstance(error.instance, bool | int | float) else ""
            return f"{found}, expected {_kinds(kinds)}{quotes}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            sign = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
            return f"{found}, expected {sign.get(error.validator, 'less than')} {rule}"
        case "minItems" | "maxItems":
            least, most = error.schema.get("minItems", 0), error.schema.get("maxItems")
            number = f"{least}" if least == most else f"at least {least}" if most is None else f"at most {most}"
            return f"{found}, expected a list of {number} value{'s' * (number != '1' and not number.endswith(' 1'))}"
        case "minLength" | "minProperties":
            return f"{found}, expected something, not nothing"
        case "uniqueItems":
            return f"{found}, in which a value stands twice: remove one"
        case "anyOf":
            # What is wrong inside a value of the right kind says more than the list of kinds.
            inner = [one for one in error.context or () if one.validator != "type" or one.relative_path]
            kinds = [kind for option in rule if (kind := option.get("type"))]
            return _explain(inner[0]) if inner else f"{found}, expected {_kinds(kinds)}"
        case "oneOf":
            keys = [name for option in rule for name in option.get("required", ())]
            return f"{found}, expected one of the keys {', '.join(keys)}"
        case "not":
            return f"{found}, which is not allowed: {error.schema.get('description', '')}"
    if meaning := error.schema.get("$comment") or error.schema.get("description"):
        return f"{found}, expected: {meaning}"
    return f"{at}{error.message}"


def _kinds(kinds: list[str]) -> str:
    return " or ".join(WORDS.get(kind, kind) for kind in dict.fromkeys(kinds))
