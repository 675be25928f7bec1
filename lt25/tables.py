"""The tables of README.md and docs/, written from what they describe: ``python -m lt25.tables``.

A table stands between two comments, ``<!-- keys: NAME -->`` and ``<!-- end of keys -->``; what is between them is replaced.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lt25.config.key import OPTIONAL, REQUIRED, Key, Section
from lt25.config.sections import CONFIG, DATASET, JOB
from lt25.data.faults import REASONS
from lt25.data.read import KINDS, UNREAD
from lt25.data.records import TABLES
from lt25.data.toolkits import COLUMNS
from lt25.files import write_text
from lt25.models import families, meshes
from lt25.tasks import TASKS

DOCS = ("README.md", "docs/data.md", "docs/evaluation.md", "docs/scaling.md", "docs/training.md")

_PLACE = re.compile(r"(<!-- keys: (\w+) -->\n).*?(<!-- end of keys -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Return every table in Markdown, by its name."""
    return {
        "training": _training(),
        "model": table({"": families.find("lt25_hgrn").model_keys() or {}}, "key"),
        "families": f"{families.table()}\n",
        "meshes": meshes.table(families.FAMILIES.values()),
        "dataset": table(_named({"": DATASET}), "key"),
        "config": table(_named({"": CONFIG}), "key"),
        "prepare": table({task.title: dict(_leaves(task.prepare, "")) for task in TASKS.values()}, "task"),
        "augment": table({task.title: task.augment for task in TASKS.values()}, "task"),
        "evaluation": table(_evaluation(), "task"),
        "files": _rows(["the folder holds", "each gives", "under"], _files()),
        "faults": _rows(["counted as", "what it is"], list(REASONS.items())),
    }


def renew(text: str) -> str:
    """Return a document in which every table is what the descriptions say."""
    made = tables()
    return _PLACE.sub(lambda match: f"{match[1]}{made[match[2]]}{match[3]}", text)


def table(groups: Mapping[str, Section], first: str) -> str:
    """Return a Markdown table of the keys of several groups.

    Args:
        groups: name of the group -> its keys.
        first: "key": keys are written with their group, `training.steps`; otherwise what the first column is called, which
            names the group beside its first key.
    """
    head = ["key", "default", "meaning"] if first == "key" else [first, "key", "default", "meaning"]
    rows = [head, ["---"] * len(head)]
    for group, section in groups.items():
        for number, (name, key) in enumerate(section.items()):
            cells = [f"`{name}`", _default(key), _meaning(key)]
            rows.append(cells if first == "key" else [group if number == 0 else "", *cells])
    return _lines(rows)


def _rows(head: list[str], rows: Sequence[Sequence[str]]) -> str:
    return _lines([head, ["---"] * len(head), *rows])


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _files() -> list[list[str]]:
    """Return what may lie in a dataset's folder: kind and suffixes, what a file gives, and its column."""
    plural = {"image": "images", "audio": "recordings", "series": "arrays of NumPy", "text": "texts"}
    given = {
        "image": "the image",
        "audio": "the recording",
        "series": "its numbers, `[steps]` or `[steps, values]`",
        "text": "the whole text",
    }
    rows = [[f"{plural[column]} ({_named_suffixes(KINDS[column])})", given[column], f"`{column}`"] for column in KINDS]
    of_unread = {
        "image": "other photographs",
        "table": "spreadsheets",
        "text": "other documents",
        "json": "other JSON",
        "archive": "other archives",
    }
    unread = [
        [f"{of_unread[kind]} ({_named_suffixes(suffixes)})", f"nothing: {advice}", ""]
        for kind, (suffixes, advice) in UNREAD.items()
    ]
    columns = ", ".join(f"`{column}`" for column in COLUMNS)
    lists = [
        ["NeMo's manifests (`.json`), where `columns` names `audio_filepath`", "an example a line", "its keys"],
        ["folders of Kaldi's (`wav.scp`, `text`, `utt2spk`, `segments`)", "an example an utterance", columns],
        [
            "lists of Lhotse's (`.jsonl.gz`), where `columns` names `audio`: cuts, or recordings and supervisions",
            "an example a supervision",
            columns,
        ],
    ]
    return [
        [f"tables ({_named_suffixes(TABLES)})", "an example a row", "the names of its columns"],
        *lists,
        *rows,
        *unread,
    ]


def _named_suffixes(suffixes: set[str]) -> str:
    return ", ".join(f"`{suffix}`" for suffix in sorted(suffixes))


def _training() -> str:
    """Return the table of a training job's keys, with those marked that decide where training arrives."""
    rows = [["key", "default", "meaning", "identity"], ["---"] * 4]
    for name, key in _named(JOB)[""].items():
        rows.append([f"`{name}`", _default(key), _meaning(key), "yes" if key.identity else ""])
    return _lines(rows)


def _named(sections: Mapping[str, Section]) -> dict[str, Section]:
    return {"": {name: key for prefix, section in sections.items() for name, key in _leaves(section, prefix)}}


def _leaves(section: Section, prefix: str) -> Iterator[tuple[str, Key]]:
    for name, key in section.items():
        dotted = f"{prefix}.{name}".strip(".")
        if key.keys is None:
            yield dotted, key
        else:
            yield from _leaves(key.keys, dotted)


def _evaluation() -> dict[str, Section]:
    """Return the keys that all tasks have, and those of one."""
    sections = {task.title: task.evaluation for task in TASKS.values()}
    shared = {
        name: key for name, key in next(iter(sections.values())).items() if all(name in s for s in sections.values())
    }
    own = {title: {name: key for name, key in s.items() if name not in shared} for title, s in sections.items()}
    return {"all": shared, **own}


def _default(key: Key) -> str:
    if key.default is REQUIRED:
        return "must be given"
    if key.default is OPTIONAL or key.default is None:
        return "none"
    return f"`{_value(key.default)}`"


def _value(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip() or '""'


def _meaning(key: Key) -> str:
    allowed = [value for value in key.bounds.get("enum", ()) if f"`{value}`" not in key.meaning]
    values = f" ({', '.join(f'`{value}`' for value in allowed)})" if len(allowed) > 1 else ""
    return f"{key.meaning}{values}".replace("|", "\\|")


def main() -> None:
    for name in DOCS:
        path = Path(__file__).parents[1] / name
        write_text(path, renew(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
