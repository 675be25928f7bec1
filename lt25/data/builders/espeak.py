"""Spoken digits: utterances of one to seven English digits by espeak-ng, in many voices, accents, speeds and pitches.

Writes ``<split>/<number>.flac`` (mono, 16 kHz, 16 bits) and ``<split>/metadata.csv`` with the columns ``file_name``,
``text``, ``speaker``, ``accent``, ``rate`` (words a minute), ``pitch`` (0 to 99) and ``playback``. A speaker is one of
espeak-ng's voice variants; every speaker belongs to one split, so that test and validation are spoken by voices unheard in
training.
"""

import csv
import math
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from lt25.progress import track

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029")
# Not here: whispers, robots and shouted or sped-up speech; and f2, f3, f5, Alicia, sandro and victor, whose samples differ
# from run to run.
SPEAKERS = {
    "train": (
        *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f4"),
        *("klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6", "iven", "iven2", "iven3", "iven4"),
        *("Alex", "Andrea", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco"),
        *("Mario", "Mike", "mike2", "Mr serious", "Nguyen", "Reed", "Storm", "adam", "anika", "antonio"),
        *("benjamin", "boris", "ed", "edward", "edward2", "grandma", "gustave", "ian", "john", "kaukovalta", "marcelo"),
        *("max", "michel", "norbert", "pablo", "pedro", "quincy", "rob", "steph", "steph2", "steph3"),
    ),
    "validation": ("Andy", "caleb", "grandpa", "miguel", "shelby", "Tweaky", "belinda"),
    "test": ("Michael", "aunty", "david", "linda", "paul", "robert", "travis", "zac", "croak"),
}
# Training speech is played back slower or faster, which moves the formants: more throats than espeak-ng has voices.
PLAYBACK = {"train": (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15), "validation": (1.0,), "test": (1.0,)}
UTTERANCES = {"train": 4000, "validation": 300, "test": 400}
SAMPLE_RATE = 16_000
HEADROOM = 0.7  # some voices use all of the 16 bits, and a signal without its upper band can go beyond
PARTS = 2  # fixed, whatever the machine: the samples depend on what the same process spoke before


def build(folder: Path, options: dict) -> str:
    """Write the dataset into ``folder``; ``options`` may set ``utterances``: {split: count}. Returns the revision."""
    utterances = {**UTTERANCES, **options.get("utterances", {})}
    for split in utterances:
        (folder / split).mkdir()
    speak([(folder / split, line) for split, count in utterances.items() for line in script(split, count)])
    for split, count in utterances.items():
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(
                file, ["file_name", "text", "speaker", "accent", "rate", "pitch", "playback"], extrasaction="ignore"
            )
            writer.writeheader()
            writer.writerows(script(split, count))
    return f"espeakng-loader {version('espeakng-loader')}"


def script(split: str, count: int) -> list[dict]:
    """What is said in ``split``, by whom and how; the same at every call. Lengths and speakers come equally often."""
    random = np.random.default_rng([25, list(SPEAKERS).index(split)])
    script = []
    for number in range(count):
        words = [WORDS[digit] for digit in random.integers(10, size=1 + number % 7)]
        # A comma is a short pause: people say a number now in one breath, now digit by digit.
        spoken = words[0] + "".join((", " if random.random() < 0.2 else " ") + word for word in words[1:])
        speaker = SPEAKERS[split][number // 7 % len(SPEAKERS[split])]
        script.append(
            {
                "file_name": f"{number:05d}.flac",
                "text": " ".join(words),
                "spoken": spoken,
                "speaker": speaker,
                "accent": ACCENTS[random.integers(len(ACCENTS))],
                "rate": int(random.integers(120, 231)),
                "pitch": int(random.integers(25, 76)),
                "playback": float(random.choice(PLAYBACK[split])),
            }
        )
    return script


def speak(lines: list[tuple[Path, dict]]) -> None:
    """Write what a script says, each line into its folder: `(folder, line)`."""
    with ProcessPoolExecutor(PARTS, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        parts = [pool.submit(_speak, lines[part::PARTS]) for part in range(PARTS)]
        for _ in track(_spoken(lines, parts), "espeak-ng: utterances spoken", len(lines)):
            pass


def _spoken(lines: list[tuple[Path, dict]], parts: list[Future]) -> Iterator[None]:
    """Yield once for each line that is spoken, as the parts come to it, and end when all have ended."""
    waiting, at_work = [folder / line["file_name"] for folder, line in lines], set(parts)
    while at_work:
        done, at_work = wait(at_work, timeout=0.5)
        for part in done:
            part.result()
        left = [path for path in waiting if at_work and not path.exists()]
        yield from [None] * (len(waiting) - len(left))
        waiting = left


def _speak(lines: list[tuple[Path, dict]]) -> None:
    """Speak one part of all lines, (folder, line), in a process of its own: espeak-ng keeps global state."""
    import soundfile

    from lt25.data.espeak import Espeak

    espeak = Espeak()
    for folder, line in lines:
        samples = espeak.say(line["spoken"], f"{line['accent']}+{line['speaker']}", line["rate"], line["pitch"])
        samples = _resample(samples, round(espeak.sample_rate * line["playback"]))
        soundfile.write(folder / line["file_name"], samples, SAMPLE_RATE, subtype="PCM_16")


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Bring int16 samples [n] from ``rate`` to `SAMPLE_RATE` by cutting off their spectrum; utterances begin and end in
    silence, so that its periodicity does not matter."""
    common = math.gcd(rate, SAMPLE_RATE)
    before, after = rate // common, SAMPLE_RATE // common
    blocks = math.ceil(len(samples) / before)
    spectrum = np.fft.rfft(samples, blocks * before)
    resampled = np.fft.irfft(spectrum[: blocks * after // 2 + 1], blocks * after) * (HEADROOM * after / before)
    return np.round(resampled[: len(samples) * after // before]).astype(np.int16)
