"""Files that are there whole or not at all, and their hashes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lt25.errors import UserError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 under a temporary name, then rename it; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON file of an earlier stage.

    Raises:
        UserError: if it is not there, with the hint what to do, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there: {hint}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}): make this file again") from error
