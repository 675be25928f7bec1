"""The tasks: what each is called, what its data and its model look like, and where its behaviour stands.

What a task does is in one module for each stage, found by the task's name:

lt25/data/<task>.py
    write(dataset: Dataset, examples: Examples, options: dict, writers: dict[str, SplitWriter], folder: Path) -> dict
        Give every example of `examples.of(*writers)` to its split's writer, write further files into the folder, and return
        {"splits": {split: what stats.json says of it}, "model": the keys of the model's config that the data decides}.
    source(split: PreparedSplit, reading: Reading) -> Source
        Where examples come from (lt25/data/prepared.py); ``reading`` (lt25/data/order.py) is the run's: which of them are this
        process's, and for a language model the window's length.
    transforms(split: PreparedSplit, augment: Mapping, training: bool) -> Transforms
        What is done to examples and batches (lt25/data/batches.py): with ``training`` also the experiment's `augment`.
    collate(items: list[dict[str, Tensor]], grid: Grid = NO_GRID) -> dict[str, Tensor]
        Examples, as source and transforms give them, to a batch: arguments of the model's forward, and ``labels``. The grid
        (lt25/data/batches.py) asks for further padding.
    collate_stacked(examples: dict[str, Tensor]) -> dict[str, Tensor]
        Left out, or the same for examples of one length that come stacked, for speed.
lt25/training/losses/<task>.py
    select(output) -> what the loss takes of a model's output
    loss(output, labels) -> the sum of the loss over the batch's labels
    metric(output, labels) -> {name: (sum, count)}, what validation reports besides the loss
    METRIC, DIRECTION, COMPILES, infinite: see `lt25.training.losses`.
lt25/evaluation/<task>.py
    evaluate_split(model, model_dir, split, options, name, shown) -> (metrics, table)
        model: the exported model, in evaluation mode on its device; model_dir: its folder; split: a `PreparedSplit`;
        options: the task's evaluation keys as attributes; name: the split's; shown: whether it is the split that the report
        shows (the headline split of a final model), for which samples may be made. metrics: a dictionary that JSON can hold;
        table: a pandas.DataFrame, one row an example in the split's order, column ``id`` first.
    summary(metrics) -> a line for the log
    plots(metrics, table) -> {file: matplotlib Figure} of the split that is shown, drawn with `lt25.evaluation.style`
lt25/report/<task>.py
    headline(metrics, split) -> `lt25.report.headline.Headline`
    examples(results) -> HTML that shows single examples (`markupsafe.Markup`, "" for none); see `lt25.report.html.fill`
    LOSS_UNIT: unit of the training loss, "nats per example"
    CAPTIONS: {file: sentence}, the plots in reading order and what stands under each

A task of your own is a package with modules of the same functions, called data, loss, evaluation and report, and a call of
`register` in its ``__init__.py``; config/config.yaml names the package under ``plugins``. examples/regression is one. Nothing
here imports torch.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from lt25.config.key import Key, Section
from lt25.config.sections import SPLITS

STAGES = {
    "data": "lt25.data",
    "loss": "lt25.training.losses",
    "evaluation": "lt25.evaluation",
    "report": "lt25.report",
}
"""Stage -> the package that holds its modules of lt25's own tasks."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as experiment and dataset files write it, and what its modules are called.
        title: for people, "Speech recognition".
        description: what its models are, with an article, "a speech recogniser (CTC)".
        columns: the roles that a dataset must have for it.
        main_input: the argument of the model's forward that takes the data.
        auto_model: the Auto class of transformers that loads its models.
        pipeline_tag: the Hub's name for what its models do.
        prefix: of the name of its prepared data's folder.
        unit: what one step of its sequences is, in the plural: training says how many it reads a second.
        usage: Python that loads and uses a model; ``{folder}`` stands for the model's folder.
        prepare: the keys of an experiment's ``prepare`` section.
        evaluation: the keys of an experiment's ``evaluation`` section.
        augment: the keys of an experiment's ``augment`` section: what is done to training examples at random.
        augment_folders: those of them that name a folder of sounds; the content of its files decides where a run arrives.
        decided: the keys of the model's config that the data decides, and an experiment may not set.
        row_complaint: of the resolved ``prepare`` and ``augment`` sections and an example (`lt25.data.read.Row`), what does not
            fit, beginning with the key, or None: `lt25 check` asks of the first example of each split.
        complaint: of the resolved ``prepare`` and ``augment`` sections, what makes them impossible together, or None.
        prepare_from_model: keys of the model's config that decide the prepared data too.
        preparation_version: of the code that prepares; where it gives other data for the same options, it is raised by one.
        windows: whether a step reads windows of one stream of tokens (`lt25.data.packing`), not whole examples.
        package: for a task that is not lt25's own, the package of its modules.
    """

    name: str
    title: str
    description: str
    columns: tuple[str, ...]
    main_input: str
    auto_model: str
    pipeline_tag: str
    prefix: str
    unit: str
    usage: str
    prepare: Section
    evaluation: Section
    augment: Section = field(default_factory=dict)
    augment_folders: tuple[str, ...] = ()
    complaint: Callable[[Mapping[str, Any], Mapping[str, Any]], str | None] = field(
        default=lambda prepare, augment: None
    )
    prepare_from_model: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    row_complaint: Callable[[Mapping[str, Any], Mapping[str, Any], Any], str | None] = field(
        default=lambda prepare, augment, row: None
    )
    preparation_version: int = 1
    windows: bool = False
    package: str | None = None

    def module(self, stage: str) -> ModuleType:
        """Import the task's module of a stage: "data", "loss", "evaluation" or "report"."""
        return import_module(f"{self.package}.{stage}" if self.package else f"{STAGES[stage]}.{self.name}")


TASKS: dict[str, Task] = {}
"""Every task by its name."""


def register(task: Task) -> None:
    """Add a task, or replace the one of the same name."""
    TASKS[task.name] = task


def decided_keys() -> set[str]:
    """Return the keys of a model that the data of some task decides."""
    return {key for task in TASKS.values() for key in task.decided}


def evaluation_keys(**further: Key) -> Mapping[str, Key]:
    """Return the keys that the evaluation of every task has, and further ones."""
    return {
        "splits": Key(
            "array",
            ["validation", "test"],
            "prepared splits to evaluate, with `test` further test splits; `test`, or else the last, gives the headline number",
            True,
            {"items": {"enum": [*SPLITS]}, "minItems": 1, "uniqueItems": True},
        ),
        "batch_size": Key("integer", 64, "examples in a batch; documents, for a language model", False, {"minimum": 1}),
        "trust_remote_code": Key(
            "boolean",
            False,
            "run the Python that a model's folder brings along: only for a model whose code you have read",
            False,
        ),
        **further,
    }


FAULTY = Key(
    "string",
    "exclude",
    "what becomes of an example that cannot be used: `exclude` leaves it out, and `stats.json` counts how many for which reason; "
    "more than a twentieth of all is an error. `stop`: the first is one",
    True,
    {"enum": ["stop", "exclude"]},
)
"""A key of every task's ``prepare`` section: what `lt25.data.faults` goes by."""


def _factors(what: str, needs: str) -> Key:
    """Return a key of ``augment`` that lists factors, one of which is drawn for each recording."""
    return Key(
        ("array", "null"),
        None,
        f"{what} by one of these factors, `[0.9, 1, 1.1]`, drawn anew for each in every epoch; {needs}",
        True,
        {"items": {"type": "number", "minimum": 0.5, "maximum": 2}, "minItems": 1},
    )


def _equalise_db(meaning: str) -> Key:
    return Key(("number", "null"), None, meaning, True, {"exclusiveMinimum": 0, "maximum": 40})


def _image_complaint(prepare: Mapping[str, Any], augment: Mapping[str, Any]) -> str | None:
    layout = prepare["layout"]
    if prepare["permutation"] is not None and layout != "pixels":
        return (
            f"prepare.permutation: is for pixels, and prepare.layout is {layout}: set it to pixels, or remove the key"
        )
    return augment_complaint(augment, "series") if layout == "series" else None


def augment_complaint(augment: Mapping[str, Any], kind: str) -> str | None:
    """Complain of the first key of ``augment`` that is given and means nothing for inputs of a kind.

    Args:
        augment: the resolved section of a classification.
        kind: "image", "series" or, for the samples of recordings, "audio"; their frames are a series.
    """
    for key, value in augment.items():
        meant = _AUGMENTED.get(key, ("image",))
        if value and kind not in meant:
            instead = " or ".join(_CHANGED[one] for one in meant)
            return f"augment.{key}: is for {instead}, and the inputs are none: remove the key"
    return None


_AUGMENTED = {
    "shift": ("image", "series"),
    "scale": ("image", "series"),
    "noise": ("image", "series", "audio"),
    "speed": ("audio",),
    "equalise_db": ("audio",),
    "mixup": ("image", "series", "audio"),
}
"""Keys of ``augment`` -> the inputs that they change; the others change images."""

_CHANGED = {
    "image": "images",
    "series": "series",
    "audio": "samples of recordings (prepare.n_mels: 0)",
}

_RATES = {"minimum": 4000, "maximum": 192_000}
"""Bounds of ``prepare.sample_rate``, in Hz."""

_OF_KIND = {
    "image": ("layout", "size", "grey", "permutation"),
    "audio": ("n_mels", "sample_rate", "max_steps"),
    "series": ("layout", "max_steps"),
}
"""What a classifier's inputs are -> the keys of ``prepare`` that mean something for them."""

_INPUTS = {"image": "images", "audio": "recordings", "series": "series"}


def kind_complaint(prepare: Mapping[str, Any], kind: str) -> str | None:
    """Complain of the first key of ``prepare`` that was given a value and means nothing for inputs of a kind.

    Args:
        prepare: the resolved section of a classification.
        kind: "image", "audio" or "series".
    """
    keys = TASKS["classification"].prepare
    if kind != "series" and prepare["layout"] == "series":
        instead = "use pixels or rows" if kind == "image" else "remove the key"
        return f"prepare.layout: found series, and the inputs are {_INPUTS[kind]}: {instead}"
    for name, key in keys.items():
        if name not in (*_OF_KIND[kind], "faulty") and prepare[name] != key.default:
            takes = ", ".join(_OF_KIND[kind])
            return f"prepare.{name}: has no effect on {_INPUTS[kind]}, for which there are {takes}: remove the key"
    return None


def _classification_row(prepare: Mapping[str, Any], augment: Mapping[str, Any], row: Any) -> str | None:
    if (kind := row.kind("input")) not in _OF_KIND:
        return None  # preparation counts it as a fault
    of = "series" if kind == "audio" and prepare["n_mels"] else kind
    return augment_complaint(augment, of) or kind_complaint(prepare, kind)


def _speech_row(prepare: Mapping[str, Any], augment: Mapping[str, Any], row: Any) -> str | None:
    if (kind := row.kind("audio")) != "audio":
        return f"columns.audio: found {kind}, expected an audio file: name another column"
    if isinstance(row.roles["text"], int):
        return None  # a number is read aloud
    return _text_row(prepare, augment, row)


def _text_row(prepare: Mapping[str, Any], augment: Mapping[str, Any], row: Any) -> str | None:
    if isinstance(row.roles["text"], str | None):
        return None  # preparation counts a missing one as a fault
    return f"columns.text: found {row.kind('text')}, expected a text: name another column"


register(
    Task(
        name="classification",
        title="Sequence classification",
        description="a classifier of sequences",
        columns=("input", "label"),
        main_input="input_features",
        auto_model="AutoModelForSequenceClassification",
        pipeline_tag="time-series-classification",
        prefix="series",
        unit="positions",
        usage="""\
import lt25
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("{folder}")
extractor = AutoFeatureExtractor.from_pretrained("{folder}")
# series: an image (Pillow's, or the bytes of its file), numbers [steps, values], or samples of a recording
logits = model(**extractor(series, return_tensors="pt")).logits
print(model.config.id2label[int(logits.argmax())])""",
        prepare={
            "layout": Key(
                "string",
                "pixels",
                "how an image is read. `pixels`: a step is a pixel (1 or 3 numbers); `rows`: a row of the image (width times "
                "1 or 3). Series and recordings are known by their files; `series`: nothing but numbers is accepted",
                True,
                {"enum": ["pixels", "rows", "series"]},
            ),
            "size": Key(
                ("array", "null"),
                None,
                "`[height, width]` that images are brought to; none: the median of train's, made so small that the longer side "
                "has at most 32 pixels",
                True,
                {"items": {"type": "integer", "minimum": 1, "maximum": 4096}, "minItems": 2, "maxItems": 2},
            ),
            "grey": Key("boolean", False, "images in colour are turned into shades of grey", True),
            "permutation": Key(
                ("integer", "null"),
                None,
                "seed of one random order in which the pixels of every image are read; none: line by line",
                True,
                {"minimum": 0},
            ),
            "n_mels": Key(
                "integer", 40, "of recordings: mel bands; 0: none, a step is a sample", True, {"enum": [0, 40, 80]}
            ),
            "sample_rate": Key("integer", 16000, "of recordings: Hz; all audio is brought to it", True, _RATES),
            "max_steps": Key(
                "integer",
                100_000,
                "the most steps of a series, or frames of 10 ms or samples of a recording; a longer one cannot be used",
                True,
                {"minimum": 1},
            ),
            "faulty": FAULTY,
        },
        preparation_version=3,
        evaluation=evaluation_keys(),
        augment={
            "shift": Key(
                "number",
                0.0,
                "images are moved by up to so many pixels, in both directions; series by up to so many steps, earlier or later; "
                "what was at the border is continued beyond it",
                True,
                {"minimum": 0},
            ),
            "crop": Key(
                "integer",
                0,
                "images are moved by a whole number of pixels, up to so many, in both directions; what was at the border is "
                "continued beyond it",
                True,
                {"minimum": 0},
            ),
            "rotate": Key(
                "number",
                0.0,
                "images are turned by up to so many degrees, either way",
                True,
                {"minimum": 0, "maximum": 180},
            ),
            "scale": Key(
                "number",
                0.0,
                "images are made larger or smaller by a factor of up to one and this; of series, all values' distances from "
                "train's mean",
                True,
                {"minimum": 0, "maximum": 1},
            ),
            "flip": Key("boolean", False, "images are mirrored, left to right, every second time", True),
            "noise": Key(
                "number",
                0.0,
                "standard deviation of the noise that is added to images and series, in standard deviations of their pixels or "
                "channels; to recordings, of which each gets its own, up to so much, in root mean squares of their samples",
                True,
                {"minimum": 0},
            ),
            "speed": _factors("recordings are played faster", "needs `prepare.n_mels: 0`"),
            "equalise_db": _equalise_db(
                "recordings pass a random smooth filter, which makes each frequency louder or softer by up to so many dB and "
                "turns its phase, as another microphone in another room would; needs `prepare.n_mels: 0`"
            ),
            "mixup": Key(
                "number",
                0.0,
                "another example of the batch is mixed into each, with a weight of up to this, and its class counts with the "
                "same weight",
                True,
                {"minimum": 0, "maximum": 0.5},
            ),
        },
        complaint=_image_complaint,
        decided=("num_labels", "id2label", "label2id", "input_size"),
        row_complaint=_classification_row,
    )
)


_ABOVE_ZERO = {"exclusiveMinimum": 0}

TRANSCRIPTS: Section = {
    "unicode": Key("string", "NFKC", "the form of Unicode", True, {"enum": ["NFKC", "NFC"]}),
    "case": Key(
        "string",
        "lower",
        "letters are written small (`lower`) or as they are (`keep`)",
        True,
        {"enum": ["lower", "keep"]},
    ),
    "digits": Key(
        "string",
        "words",
        "numbers are written as English words (`words`) or as they are (`keep`)",
        True,
        {"enum": ["words", "keep"]},
    ),
    "punctuation": Key(
        "string",
        "drop",
        "marks that the alphabet lacks are left out (`drop`) or refused (`keep`)",
        True,
        {"enum": ["drop", "keep"]},
    ),
}
"""What `lt25.data.transcripts` does."""


DECODER: Section = {
    "beam": Key("integer", 50, "how many texts are kept after each frame", True, {"minimum": 1}),
    "language_model": Key(
        ("string", "null"),
        None,
        "`words` or `symbols`: n-grams of them, estimated from the transcripts of the training split; or an ARPA file of either",
        True,
        {"minLength": 1},
    ),
    "order": Key(
        "integer", 4, "the most words or symbols of an n-gram that is estimated", True, {"minimum": 2, "maximum": 6}
    ),
    "weight": Key("number", 0.5, "of the language model's logarithms of probabilities", True, {"exclusiveMinimum": 0}),
    "word_score": Key("number", 0.0, "what each word adds to a text's score, with a language model of words", True),
    "boost": Key(
        "array",
        [],
        "words, such as names, that are heard more readily, whether the language model of words knows them or not; they are "
        "normalised as transcripts are",
        True,
        {"items": {"type": "string", "minLength": 1}, "uniqueItems": True},
    ),
    "boost_score": Key("number", 3.0, "what each of them adds to a text's score", True),
    "alternatives": Key(
        "integer", 1, "so many texts of each utterance are written down, the best first", True, {"minimum": 1}
    ),
}
"""How `lt25.evaluation.beam_search` searches."""


_OF_SAMPLES = "needs `prepare.store: audio`"

OF_AUDIO = (
    "speed",
    "tempo",
    "pitch",
    "equalise_db",
    "rooms",
    "noise_db",
    "noise_files",
    "gain_db",
    "telephone",
)
"""The keys of a speech recogniser's ``augment`` section that are about samples, in the order in which they are done."""


def _speech_complaint(prepare: Mapping[str, Any], augment: Mapping[str, Any]) -> str | None:
    if prepare["units"] == "bpe" and prepare["vocab_size"] < len(prepare["alphabet"]) + 3:
        return (
            f"prepare.vocab_size: found {prepare['vocab_size']}, expected at least {len(prepare['alphabet']) + 3}: the "
            f"characters of prepare.alphabet, blank, space and one that is never used"
        )
    form = prepare["transcripts"]["unicode"]
    if (composed := unicodedata.normalize(form, prepare["alphabet"])) != prepare["alphabet"]:
        return (
            f"prepare.alphabet: transcripts are put in Unicode's form {form}, in which it is {composed!r}: write it so, "
            f"each character once"
        )
    capitals = [letter for letter in prepare["alphabet"] if letter.lower() != letter]
    if capitals and prepare["transcripts"]["case"] == "lower":
        return (
            f"prepare.alphabet: found {capitals[0]}, and transcripts are put in lower case: write it small, or set "
            f"prepare.transcripts.case to keep"
        )
    for name in OF_AUDIO:
        if augment[name] is not None and prepare["store"] != "audio":
            return f"augment.{name}: needs audio, and prepare.store is features: set it to audio, or remove the key"
    if augment["consistency"] and not augment["time_masks"] and not augment["band_masks"]:
        return (
            "augment.consistency: compares an utterance with itself under other masks: set augment.time_masks or "
            "augment.band_masks, or remove the key"
        )
    for name in ("noise_db", "gain_db"):
        if augment[name] and augment[name][0] > augment[name][1]:
            return f"augment.{name}: found {augment[name]}, expected the lower one first"
    if augment["noise_files"] and not augment["noise_db"]:
        return (
            "augment.noise_files: needs augment.noise_db, the lowest and highest ratio of signal to noise, as [5, 40]"
        )
    return None


register(
    Task(
        name="speech_recognition",
        title="Speech recognition",
        description="a speech recogniser (CTC)",
        columns=("audio", "text"),
        main_input="input_features",
        auto_model="AutoModelForCTC",
        pipeline_tag="automatic-speech-recognition",
        prefix="speech",
        unit="frames",
        usage="""\
import lt25
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", "{folder}")
print(recognise("speech.wav")["text"])""",
        prepare={
            "n_mels": Key("integer", 80, "mel bands", True, {"enum": [40, 80]}),
            "level": Key(
                "string",
                "running",
                "what the power of a frame is measured by: the loudest frame so far (`running`), the loudest of the utterance "
                "(`utterance`; with `bands` also each band by its mean, as microphones differ in their colour), or full scale "
                "(`recorded`), so that a model hears recordings of one level only",
                True,
                {"enum": ["running", "utterance", "bands", "recorded"]},
            ),
            "sample_rate": Key("integer", 16000, "Hz; all audio is brought to it", True, _RATES),
            "store": Key(
                "string",
                "features",
                "`features`: what is stored are log-mel frames; `audio`: the samples, of which frames are computed when they "
                "are read, after augmentation of the audio",
                True,
                {"enum": ["features", "audio"]},
            ),
            "units": Key(
                "string",
                "characters",
                "what the model writes: `characters`; `bpe`, pieces of words that the training split has often; or whole "
                "`words`, those of the training split and no other (digits, commands)",
                True,
                {"enum": ["characters", "bpe", "words"]},
            ),
            "vocab_size": Key(
                "integer",
                512,
                "with `units: bpe`, the number of its classes: pieces, blank, space and one that is never used",
                True,
                {"minimum": 8, "maximum": 32768},
            ),
            "alphabet": Key(
                "string",
                "abcdefghijklmnopqrstuvwxyz'",
                "the characters of a transcript besides the space, each once",
                True,
                {
                    "minLength": 1,
                    "pattern": "^(?!.*(.).*\\1)[^ |]+$",
                    "$comment": "characters, each once, without the space and `|`",
                },
            ),
            "transcripts": Key("object", {}, "how transcripts are normalised", True, keys=TRANSCRIPTS),
            "max_seconds": Key(
                "number",
                60.0,
                "a longer recording is not used: the longest decides a batch's memory",
                True,
                _ABOVE_ZERO,
            ),
            "faulty": FAULTY,
        },
        evaluation=evaluation_keys(
            normaliser=Key(
                "string",
                "none",
                "`english`: beside the word error rate another one, `normalised`, for which spelling does not count: numbers, "
                "contractions, titles and fillers are as Whisper's normaliser has them",
                True,
                {"enum": ["none", "english"]},
            ),
            conditions=Key(
                "boolean",
                False,
                "the test split is heard again 6, 12 and 20 dB quieter, with nothing above 4 kHz (as at 8 kHz), and in noise at "
                "20, 10 and 0 dB",
                True,
            ),
            decoder=Key(
                ("object", "null"),
                None,
                "search for the likeliest text, with a language model if wanted; none: the best symbol of each frame",
                True,
                keys=DECODER,
            ),
        ),
        augment={
            "speed": _factors("audio is played faster, and so higher,", _OF_SAMPLES),
            "tempo": _factors("audio is played faster, and no higher,", _OF_SAMPLES),
            "pitch": _factors("audio is played higher, and no faster,", _OF_SAMPLES),
            "equalise_db": _equalise_db(
                "some frequencies are made louder and others softer, smoothly and by up to so many dB, as by another microphone "
                f"or throat, drawn anew for every utterance in every epoch; {_OF_SAMPLES}"
            ),
            "rooms": Key(
                ("string", "null"),
                None,
                "a folder of responses of rooms to an impulse (WAV, FLAC, Ogg or MP3 of any rate): every second utterance is "
                f"heard in one of these rooms, as loud as it was; {_OF_SAMPLES}",
                True,
                {"minLength": 1},
            ),
            "noise_db": Key(
                ("array", "null"),
                None,
                "`[low, high]`: noise, from white to falling by 6 dB an octave, or of `noise_files`, is added at a ratio of "
                f"signal to noise between them, in dB, drawn anew for every utterance in every epoch; {_OF_SAMPLES}",
                True,
                {"items": {"type": "number", "minimum": -20, "maximum": 100}, "minItems": 2, "maxItems": 2},
            ),
            "noise_files": Key(
                ("string", "null"),
                None,
                "a folder of recordings (WAV, FLAC, Ogg or MP3 of any rate): the noise of `noise_db` is a random piece of one",
                True,
                {"minLength": 1},
            ),
            "gain_db": Key(
                ("array", "null"),
                None,
                "`[low, high]`: audio is made louder or softer by a gain between them, in dB, drawn anew for every utterance "
                f"in every epoch; {_OF_SAMPLES}",
                True,
                {"items": {"type": "number", "minimum": -60, "maximum": 60}, "minItems": 2, "maxItems": 2},
            ),
            "telephone": Key(
                ("number", "null"),
                None,
                "so great a share of utterances, drawn anew in every epoch, is heard through a telephone: nothing above 4 kHz, "
                f"and 8 bits a sample (mu-law); {_OF_SAMPLES}",
                True,
                {"exclusiveMinimum": 0, "maximum": 1},
            ),
            "time_masks": Key(
                "integer", 0, "how many stretches of time are masked (SpecAugment)", True, {"minimum": 0}
            ),
            "time_width": Key(
                "number", 0.05, "the longest of them, as a part of the utterance", True, {"minimum": 0, "maximum": 1}
            ),
            "band_masks": Key(
                "integer", 0, "how many groups of mel bands are masked (SpecAugment)", True, {"minimum": 0}
            ),
            "band_width": Key("integer", 8, "the widest of them, in bands", True, {"minimum": 0}),
            "consistency": Key(
                "number",
                0.0,
                "every utterance of a step is heard twice, with masks of its own each time, and so many times the divergence "
                "between what the model makes of the two is added to the loss (CR-CTC), usually 0.2; needs masks",
                True,
                {"minimum": 0},
            ),
        },
        augment_folders=("rooms", "noise_files"),
        complaint=_speech_complaint,
        # A transcript has to fit the frames that subsampling leaves.
        prepare_from_model=("subsampling",),
        preparation_version=2,
        decided=("vocab_size", "pad_token_id", "input_size"),
        row_complaint=_speech_row,
    )
)

register(
    Task(
        name="language_modeling",
        title="Language modelling",
        description="a causal language model",
        columns=("text",),
        main_input="input_ids",
        auto_model="AutoModelForCausalLM",
        pipeline_tag="text-generation",
        prefix="tokens",
        unit="tokens",
        windows=True,
        usage="""\
import lt25
from transformers import pipeline

generate = pipeline("text-generation", "{folder}")
print(generate("def main(", max_new_tokens=50)[0]["generated_text"])""",
        prepare={
            "tokenizer": Key(
                "string",
                "bpe",
                "`bpe`, `unigram` or `bytes`, trained on the training split; or another model's: a folder, or owner/name on the "
                "Hub or in the mirror",
                True,
                {"minLength": 1},
            ),
            "vocab_size": Key(
                "integer",
                4096,
                "tokens of a tokenizer that is trained: the bytes and the end of a document at least; `bytes` has no more, "
                "`unigram` what the text gives",
                True,
                {"minimum": 257},
            ),
            "store": Key(
                "string",
                "tokens",
                "`tokens`: all text is tokenized ahead of training; `text`: that of train while training goes on, which sees "
                "the same either way",
                True,
                {"enum": ["tokens", "text"]},
            ),
            "documents": Key(
                "string",
                "whole",
                "a text is one document (`whole`); `paragraphs` (ended by an empty line) or `lines`: it is cut into them",
                True,
                {"enum": ["whole", "paragraphs", "lines"]},
            ),
            "faulty": FAULTY,
        },
        evaluation=evaluation_keys(
            max_bytes=Key(
                ("integer", "null"),
                None,
                "evaluate whole documents, drawn in a fixed random order, until they hold this many bytes; none: all",
                True,
                {"minimum": 1},
            ),
            prompts=Key(
                "array",
                [],
                "texts to continue; none: the first lines of three evaluated documents",
                True,
                {"items": {"type": "string", "minLength": 1}},
            ),
            new_tokens=Key("integer", 96, "the most tokens of a continuation; 0: no samples", True, {"minimum": 0}),
            lm_eval=Key(
                "array",
                [],
                "tasks of lm-eval to run with a final model, by name, or YAML files of one's own; needs the package lm-eval",
                True,
                {"items": {"type": "string", "minLength": 1}},
            ),
        ),
        preparation_version=2,
        decided=("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"),
        row_complaint=_text_row,
    )
)

register(
    Task(
        name="recall",
        title="Recall",
        description="a language model that recalls symbols",
        columns=("text", "asked", "difficulty"),
        main_input="input_ids",
        auto_model="AutoModelForCausalLM",
        pipeline_tag="text-generation",
        prefix="symbols",
        unit="symbols",
        usage="""\
import lt25
from transformers import pipeline

generate = pipeline("text-generation", "{folder}")
print(generate("k1 v2 k3 v4 k3", max_new_tokens=1)[0]["generated_text"])""",
        prepare={"faulty": FAULTY},
        evaluation=evaluation_keys(),
        decided=("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"),
        row_complaint=_text_row,
    )
)
