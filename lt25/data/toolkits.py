"""Lists of utterances as other speech toolkits write them: Kaldi's data folders, and Lhotse's lists by lhotse.

Both give the columns `COLUMNS`, as far as a folder of Kaldi's has them: ``speaker`` of ``utt2spk``, ``start`` and ``end`` of
``segments``, in seconds.
"""

import posixpath
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

from lt25.data.faults import Fault
from lt25.data.folders import Folder
from lt25.data.records import Record, Records, Select, checked, text_codec
from lt25.errors import UserError

COLUMNS = ("id", "audio", "text", "speaker", "start", "end")

KALDI = "wav.scp"
"""The file that makes a folder one of Kaldi's."""

BESIDE = {"text": "text", "utt2spk": "speaker", "segments": "start"}
"""What else of such a folder is read -> a column that it gives."""

NEMO, NEMO_FILE = ".json", "audio_filepath"
"""How the names of NeMo's manifests end, which are JSON lines, and the column by which a dataset asks for one."""

LHOTSE = ".jsonl.gz"
"""How the names of Lhotse's lists end."""


def is_list(name: str) -> bool:
    """Whether a file is such a list, by its name."""
    return posixpath.basename(name) == KALDI or (name.endswith(LHOTSE) and _recordings_of(name) is None)


def parts(names: list[str]) -> set[str]:
    """Return those of some files that are read with such a list, or are one."""
    there = set(names)
    folders = {posixpath.dirname(name) for name in names if posixpath.basename(name) == KALDI}
    beside = {posixpath.join(folder, file) for folder in folders for file in (KALDI, *BESIDE)}
    return {name for name in there if name in beside or name.endswith(LHOTSE)}


def records(folder: Folder, name: str, select: Select, encoding: str) -> Records:
    """Yield the utterances of a list.

    Args:
        folder: the dataset's; nothing else is read.
        name: of the list.
        select: which of its columns are wanted.
        encoding: of Kaldi's files.

    Raises:
        UserError: if the list as a whole cannot be read, lacks a column, or names commands in place of files.
    """
    try:
        yield from _kaldi(folder, name, select, encoding) if name.endswith(KALDI) else _lhotse(folder, name, select)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error}): mend it") from None


def _kaldi(folder: Folder, name: str, select: Select, encoding: str) -> Records:
    beside = {file: folder.find(posixpath.join(posixpath.dirname(name), file)) for file in BESIDE}
    given = ["id", "audio", *(column for file, column in BESIDE.items() if beside[file])]
    wanted = select([*given, "end"] if beside["segments"] else given, name)
    read = partial(_entries, folder, encoding=encoding)
    texts = _once(beside["text"], read) if "text" in wanted else {}
    speakers = _once(beside["utt2spk"], read) if "speaker" in wanted else {}
    recordings = _once(name, read)
    for recording, entry in recordings.items():
        if entry.startswith("|") or entry.endswith("|"):
            raise UserError(
                f"{name}: {recording} is a command, which is not run ({entry[:60]!r}): write what it gives into WAV or FLAC "
                "files, and name these"
            )
    segments = beside["segments"]
    for number, utterance, entry in read(segments or name):
        where = f"{segments or name}, line {number}"
        values = {"id": utterance, "audio": entry, "text": texts.get(utterance), "speaker": speakers.get(utterance)}
        if segments:
            fields = entry.split()
            if len(fields) != 3:
                message = f"expected an utterance, a recording, its start and its end, found {len(fields) + 1} fields"
                yield Fault("a row that cannot be read", where, message)
                continue
            values["start"], values["end"] = fields[1:]
            values["audio"] = recordings.get(fields[0])
            if values["audio"] is None:
                yield Fault("a missing file", where, f"{name} has no recording {fields[0]!r}")
                continue
        lacking = next((column for column in ("text", "speaker") if column in wanted and values[column] is None), None)
        if lacking:
            file = next(beside[file] for file, column in BESIDE.items() if column == lacking)
            yield Fault("a missing value", where, f"{file} has no line of the utterance {utterance!r}")
            continue
        yield checked(Record(where, number, {column: values[column] for column in wanted}), encoding)


def _entries(folder: Folder, name: str, encoding: str) -> Iterator[tuple[int, str, str]]:
    """Yield what a file of Kaldi's has on each line: its number, a key, and the rest."""
    with (folder.root / name).open(encoding=text_codec(encoding), errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                key, *rest = line.split(maxsplit=1)
                yield number, key, rest[0].strip() if rest else ""


def _once(name: Any, read: Any) -> dict[str, str]:
    """Return the rest of a file's lines by their keys."""
    found: dict[str, str] = {}
    for number, key, rest in read(name):
        if key in found:
            raise UserError(f"{name}, line {number}: {key} stands there for the second time: remove one of the lines")
        found[key] = rest
    return found


def _recordings_of(name: str) -> str | None:
    """Return the name of the list of recordings that Lhotse writes beside one of supervisions, or None if it is none of these."""
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.replace("supervisions", "recordings")) if "supervisions" in base else None


def _lhotse(folder: Folder, name: str, select: Select) -> Records:
    try:
        lhotse = import_module("lhotse")
    except ImportError:
        raise UserError(
            f"{name}: a list of Lhotse's is read by the package lhotse, which is not installed: run `pip install lhotse`; or "
            "unpack it, if it is a table of another kind"
        ) from None
    wanted = select(COLUMNS, name)
    try:
        for supervision, cut in _supervisions(lhotse, folder, name):
            record = _supervision(supervision, cut, f"{name}: {supervision.id}")
            if isinstance(record, Record):
                record.values = {column: record.values[column] for column in wanted}
            yield record
    except (UserError, OSError):
        raise
    # What is wrong with a list shows anywhere in lhotse.
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: no list that lhotse can read ({said}): mend it, or leave it out with origin.files"
        ) from None


def _supervisions(lhotse: Any, folder: Folder, name: str) -> Iterator[tuple[Any, Any]]:
    """Yield each supervision of a list, and the cut of a recording that it lies in."""
    base = posixpath.basename(name)
    if "recordings" in base:
        other = posixpath.join(posixpath.dirname(name), base.replace("recordings", "supervisions"))
        if folder.find(other) is None:
            raise UserError(f"{name}: a list of recordings needs one of supervisions beside it: {other} is not there")
        recordings, supervisions = (lhotse.load_manifest(folder.root / part) for part in (name, other))
        cuts = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    else:
        cuts = lhotse.CutSet.from_jsonl_lazy(folder.root / name)
    for cut in cuts:
        for supervision in cut.supervisions:
            yield supervision, cut


def _supervision(supervision: Any, cut: Any, where: str) -> Record | Fault:
    """Return an utterance, in the time of its recording."""
    recording = getattr(cut, "recording", None)
    if recording is None:
        return Fault("a row that cannot be read", where, "a cut that is mixed or padded: keep it as it was recorded")
    if recording.transforms:
        return Fault(
            "a row that cannot be read",
            where,
            "its recording is changed as it is read: keep it as it was recorded",
        )
    kinds = {source.type for source in recording.sources}
    if "command" in kinds:
        raise UserError(
            f"{where}: its recording is a command, which is not run: write what it gives into WAV or FLAC files, and name these"
        )
    if kinds != {"file"} or len(recording.sources) > 1:
        what = "several files" if kinds == {"file"} else f"of the type {', '.join(sorted(kinds))}"
        return Fault("a row that cannot be read", where, f"its recording is {what}, expected one file")
    channels = supervision.channel if isinstance(supervision.channel, list) else [supervision.channel]
    if set(channels) != set(recording.channel_ids):
        message = f"it is on channel {channels} of {recording.num_channels}: write each channel into a file of its own"
        return Fault("a row that cannot be read", where, message)
    if supervision.text is None:
        return Fault("a missing value", where, "it has no text")
    start = round(cut.start + supervision.start, 6)
    values = {
        "id": supervision.id,
        "audio": recording.sources[0].source,
        "text": supervision.text,
        "speaker": supervision.speaker or recording.id,
        "start": start,
        "end": round(start + supervision.duration, 6),
    }
    return Record(where, 0, values)
