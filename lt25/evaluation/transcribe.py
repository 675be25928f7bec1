"""Recordings to text by an exported model: ``lt25 transcribe``."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt25.config.key import check, resolve
from lt25.data.read import KINDS
from lt25.data.shards import believe
from lt25.errors import UserError
from lt25.evaluation.decoder import located, reads_training_texts, require, settled, training_texts, written
from lt25.evaluation.named_files import complain_of_unread, named_files, read_named
from lt25.experiment import Experiment
from lt25.exported import experiment_of, exported_model
from lt25.importing import without_compiler, without_garbage
from lt25.tasks import DECODER

BOOST = "lt25 transcribe: --boost"

if TYPE_CHECKING:
    from lt25.evaluation.recogniser import Heard, Recogniser


def transcribe(
    name: str,
    paths: Sequence[str],
    stream: bool = False,
    form: str = "text",
    decoder: Mapping[str, Any] | None = None,
    said: Path | None = None,
) -> None:
    """Print what is said in each file.

    Args:
        name: an experiment whose model is exported, or a model's folder.
        paths: files, folders whose files are meant, and "-" for standard input; none: standard input.
        stream: hear each file as it is read, and print what was heard so far.
        form: "text", "json" (an object a line), or subtitles as "srt" or "vtt".
        decoder: keys of ``evaluation.decoder``, instead of the experiment's.
        said: a file with the text of the recording, whose words' times are wanted.

    Raises:
        UserError: if there is no such model, for subtitles of several files, for a stream if the model hears whole recordings
            only, for a search that cannot be made, or once all others are answered, for files that cannot be read, a line each.
    """
    folder, _ = exported_model(name, "speech_recognition")
    found = named_files("lt25 transcribe", paths, KINDS["audio"])
    if (form in ("srt", "vtt") or said) and len(found) > 1:
        option = "align" if said else form
        raise UserError(f"lt25 transcribe: --{option}: found {len(found)} files, expected one: call it for each")
    if said and (stream or form == "text"):
        raise UserError("lt25 transcribe: --align: expected --json, --srt or --vtt beside it, and not --stream")
    experiment = experiment_of(name)
    text, options = said and _text(said), _decoder(experiment, decoder or {})
    with without_garbage(), without_compiler():
        from lt25.evaluation.beam_search import BeamSearch
        from lt25.evaluation.recogniser import Recogniser

    recogniser, failed = Recogniser(folder), []
    if stream and (why := recogniser.whole_only):
        raise UserError(f"lt25 transcribe: --stream: {why}: leave out --stream")
    if options:
        if experiment is None:
            options["boost"] = written(options["boost"], *recogniser.transcripts, BOOST)
        recogniser.search = BeamSearch(recogniser.tokenizer, options, _training_texts(experiment, options))
    for file in found:
        try:
            heard = iter([recogniser.align(read_named(file), text)]) if text else _heard(recogniser, file, stream)
            if form == "text":
                _print_text(heard, f"{file}  " if len(found) > 1 else "", stream, bool(options))
            elif form == "json":
                _print_json(heard, file, stream)
            else:
                _print_subtitles(heard, form)
        except ValueError as error:
            failed.append(f"{file}: {error}")
    complain_of_unread(failed)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not in UTF-8"
        raise UserError(f"lt25 transcribe: --align: {path}: {why}: expected the text of the recording") from None
    if not text:
        raise UserError(f"lt25 transcribe: --align: {path}: empty: expected the text of the recording")
    return text


def _decoder(experiment: Experiment | None, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ``evaluation.decoder`` of an experiment, if it is one, with what is given instead; None for the best path."""
    options = experiment and settled(experiment)["decoder"]
    if given:
        check(given, DECODER, "lt25 transcribe: decoder")
        options = {**(options or resolve({}, DECODER)), **given}
        if "language_model" in given:
            options = located(options, Path())
        if experiment and "boost" in given:
            prepare = experiment.prepare
            options["boost"] = written(given["boost"], prepare["transcripts"], prepare["alphabet"], BOOST)
    if options:
        require(options, "lt25 transcribe: decoder.")
        if reads_training_texts(options) and experiment is None:
            raise UserError(
                f"lt25 transcribe: --lm {options['language_model']}: a folder has no training split: name an experiment, or an "
                f"ARPA file"
            )
    return options or None


def _training_texts(experiment: Experiment | None, options: Mapping[str, Any]) -> list[str]:
    if experiment is None or not reads_training_texts(options):
        return []
    believe(experiment.processed_dir, [], experiment.commands("prepare"), tables=["train"])
    return training_texts(experiment.processed_dir)


def _heard(recogniser: "Recogniser", file: str, stream: bool) -> "Iterator[Heard]":
    if stream:
        yield from recogniser.hear_stream(sys.stdin.fileno() if file == "-" else file)
    else:
        yield from recogniser.hear(read_named(file))


def _print_text(heard: "Iterator[Heard]", before: str, stream: bool, searched: bool) -> None:
    """Print the words: as a stream each when it is finished, otherwise all that were said in a line."""
    if not stream:
        print(before + " ".join(one.text for one in heard if one.text), flush=True)
        return
    written = 0
    for one in heard:
        # What a search hears in the end may be another text.
        if searched and not one.final:
            continue
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
            print(json.dumps(fields | _alternatives([one])), flush=True)
        return
    utterances = list(heard)
    words = [word for one in utterances for word in one.words]
    text = " ".join(word.text for word in words)
    fields = {"file": file, "text": text, "words": [asdict(word) for word in words]}
    print(json.dumps(fields | _alternatives(utterances)), flush=True)


def _alternatives(utterances: "Sequence[Heard]") -> dict[str, Any]:
    """Return what else each utterance may have been, for an object; nothing where it was not asked for."""
    if not any(len(one.alternatives) > 1 for one in utterances):
        return {}
    texts = [[{"text": other.text, "score": other.score} for other in one.alternatives] for one in utterances]
    return {"alternatives": texts}


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
