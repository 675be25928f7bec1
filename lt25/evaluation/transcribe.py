"""Recordings to text by an exported model: ``lt25 transcribe``."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from lt25.errors import UserError
from lt25.evaluation.named_files import complain_of_unread, named_files, read_named
from lt25.exported import exported_model
from lt25.importing import without_compiler, without_garbage

if TYPE_CHECKING:
    from lt25.evaluation.recogniser import Heard, Recogniser


def transcribe(name: str, paths: Sequence[str], stream: bool = False, form: str = "text") -> None:
    """Print what is said in each file.

    Args:
        name: an experiment whose model is exported, or a model's folder.
        paths: files, folders whose files are meant, and "-" for standard input; none: standard input.
        stream: hear each file as it is read, and print what was heard so far.
        form: "text", "json" (an object a line), or subtitles as "srt" or "vtt".

    Raises:
        UserError: if there is no such model, for subtitles of several files, for a stream if the model hears whole recordings
            only, or once all others are answered, for files that cannot be read, a line each.
    """
    folder, _ = exported_model(name, "speech_recognition")
    found = named_files("lt25 transcribe", paths)
    if form in ("srt", "vtt") and len(found) > 1:
        raise UserError(f"lt25 transcribe: --{form}: found {len(found)} files, expected one: call it for each")
    with without_garbage(), without_compiler():
        from lt25.evaluation.recogniser import Recogniser

    recogniser, failed = Recogniser(folder), []
    if stream and (why := recogniser.whole_only):
        raise UserError(f"lt25 transcribe: --stream: {why}: leave out --stream")
    for file in found:
        try:
            heard = _heard(recogniser, file, stream)
            if form == "text":
                _print_text(heard, f"{file}  " if len(found) > 1 else "", stream)
            elif form == "json":
                _print_json(heard, file, stream)
            else:
                _print_subtitles(heard, form)
        except ValueError as error:
            failed.append(f"{file}: {error}")
    complain_of_unread(failed)


def _heard(recogniser: "Recogniser", file: str, stream: bool) -> "Iterator[Heard]":
    if stream:
        yield from recogniser.hear_stream(sys.stdin.fileno() if file == "-" else file)
    else:
        yield from recogniser.hear(read_named(file))


def _print_text(heard: "Iterator[Heard]", before: str, stream: bool) -> None:
    """Print the words: as a stream each when it is finished, otherwise all that were said in a line."""
    if not stream:
        print(before + " ".join(one.text for one in heard), flush=True)
        return
    written = 0
    for one in heard:
        for word in one.words[written:]:
            print(before + word.text, end="", flush=True)
            before = " "
        written = 0 if one.final else len(one.words)
    print(before if before.strip() else "", flush=True)


def _print_json(heard: "Iterator[Heard]", file: str, stream: bool) -> None:
    """Print an object for a file, or as a stream one for all that is heard."""
    if stream:
        for one in heard:
            words = [asdict(word) for word in one.words]
            fields = {"file": file, "text": one.text, "final": one.final, "read": one.read, "words": words}
            print(json.dumps(fields), flush=True)
        return
    words = [word for one in heard for word in one.words]
    text = " ".join(word.text for word in words)
    print(json.dumps({"file": file, "text": text, "words": [asdict(word) for word in words]}), flush=True)


LINE = 42
"""The most characters of a subtitle, as television has them in a line; a longer word is not cut."""


def _print_subtitles(heard: "Iterator[Heard]", form: str) -> None:
    """Print utterances with their times, in parts of a line, as SubRip's files (srt) or WebVTT's (vtt)."""
    if form == "vtt":
        print("WEBVTT\n", flush=True)
    number = 0
    for one in heard:
        if not one.final:
            continue
        parts: list[list] = []
        for word in one.words:
            if parts and len(" ".join(other.text for other in [*parts[-1], word])) <= LINE:
                parts[-1].append(word)
            else:
                parts.append([word])
        for part in parts:
            number += 1
            times = " --> ".join(_time(seconds, form) for seconds in (part[0].start, part[-1].end))
            count = f"{number}\n" if form == "srt" else ""
            print(f"{count}{times}\n{' '.join(word.text for word in part)}\n", flush=True)


def _time(seconds: float, form: str) -> str:
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    whole, rest = divmod(milliseconds, 1000)
    mark = "," if form == "srt" else "."
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{whole:02d}{mark}{rest:03d}"
