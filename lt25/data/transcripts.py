"""Transcripts as people write them, brought to the characters that a model learns.

In this order, as ``prepare.transcripts`` says:

1. ``unicode``: the text in Unicode's form NFKC (ligatures, full-width letters and superscripts become plain ones) or NFC; curly
   apostrophes become straight ones.
2. ``case``: ``lower`` writes all letters small, ``keep`` changes none.
3. ``digits``: ``words`` writes numbers as English words, ``keep`` changes none. Read are whole numbers (also with commas between
   thousands), decimals, ordinals (21st) and decades (1990s); 1100 to 1999 and 2010 to 2099 are read in pairs, as years are; a
   number that begins with 0, or has more than 15 digits, is read digit by digit.
4. ``punctuation``: ``drop`` makes each mark a space, and an apostrophe nothing; ``keep`` changes none. The signs % & @ # § are
   no punctuation here, because they are read aloud.
5. An accented letter that the alphabet lacks becomes the letter without accent, if the alphabet has that.
6. Control characters are left out, and all white space becomes single spaces.

A character that the alphabet has is never changed by steps 4 to 6. What the alphabet lacks after all this is for the caller to
refuse.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lt25.config.key import check, resolve
from lt25.files import write_json
from lt25.tasks import TASKS, TRANSCRIPTS

CARRIED = ("transcripts", "alphabet")
"""Keys of ``prepare`` that an exported recogniser has in ``tokenizer_config.json``."""

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇`´", "'") | {"|": " "})
_READ_ALOUD = "%&@#§"
_NUMBER = re.compile(
    r"(?<![0-9])([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.([0-9]+)|(st|nd|rd|th|s)\b)?", re.IGNORECASE
)

# fmt: off
_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_LARGE = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}


def normalise(text: str, options: Mapping[str, Any], alphabet: str) -> str:
    """Return a transcript as it is learnt.

    Args:
        text: as it is written.
        options: ``prepare.transcripts``: "unicode", "case", "digits" and "punctuation".
        alphabet: the characters that a model can write besides the space.
    """
    text = unicodedata.normalize(options["unicode"], text)
    text = "".join(character if character in alphabet else character.translate(_APOSTROPHES) for character in text)
    if options["case"] == "lower":
        text = text.lower()
    if options["digits"] == "words":
        text = _NUMBER.sub(lambda found: f" {_read(found[1], found[2], found[3])} ", text)
    drop = options["punctuation"] == "drop"
    return " ".join("".join(_in_alphabet(character, alphabet, drop) for character in text).split())


def carry(folder: Path, prepare: Mapping[str, Any]) -> None:
    """Write into an exported recogniser's ``tokenizer_config.json`` how the transcripts that it learnt were normalised.

    Args:
        folder: of the model.
        prepare: the experiment's section, resolved: `CARRIED` are its keys that go along.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, **{key: prepare[key] for key in CARRIED}})


def carried(config: Mapping[str, Any], letters: str, where: str) -> tuple[dict[str, Any], str]:
    """Return ``prepare.transcripts``, resolved, and ``prepare.alphabet`` of an exported recogniser.

    Args:
        config: what its ``tokenizer_config.json`` says; where that is nothing of a rule, it is the default one, without small
            letters for a model that has capitals.
        letters: that the model has, which are the alphabet if none is told.
        where: the file, for messages.

    Raises:
        UserError: if what is told is no rule.
    """
    told = {key: config[key] for key in CARRIED if key in config}
    section = TASKS["speech_recognition"].prepare
    check(told, {key: section[key] for key in CARRIED}, where)
    alphabet = told.get("alphabet", letters)
    otherwise = {} if alphabet == alphabet.lower() else {"case": "keep"}
    return resolve(told.get("transcripts", otherwise), TRANSCRIPTS), alphabet


def _in_alphabet(character: str, alphabet: str, drop: bool) -> str:
    """Return what steps 4 to 6 make of a character."""
    if character in alphabet or character.isspace():
        return character
    category = unicodedata.category(character)
    if category in ("Cc", "Cf") or "\u0300" <= character <= "\u036f":
        return ""
    if drop and category[0] == "P" and character not in _READ_ALOUD:
        return "" if character == "'" else " "
    letters = [part for part in unicodedata.normalize("NFD", character) if not "\u0300" <= part <= "\u036f"]
    return "".join(letters) if all(letter in alphabet for letter in letters) else character


def _read(digits: str, decimals: str | None, suffix: str | None) -> str:
    """Return a number in words; ``suffix`` is "st", "nd", "rd", "th" or "s"."""
    number = int(plain) if len(plain := digits.replace(",", "")) <= 15 else 0
    if len(plain) > 15 or (plain[0] == "0" and len(plain) > 1):
        words = [_SMALL[int(digit)] for digit in plain]
    elif len(digits) == 4 and not decimals and (1100 <= number < 2000 or 2010 <= number < 2100):
        first, last = divmod(number, 100)
        ends = ["hundred"] if last == 0 else ["oh", _SMALL[last]] if last < 10 else _cardinal(last)
        words = [*_cardinal(first), *ends]
    else:
        words = _cardinal(number)
    if decimals:
        words += ["point", *(_SMALL[int(digit)] for digit in decimals)]
    if suffix:
        last = words[-1]
        if suffix.lower() == "s":
            words[-1] = f"{last[:-1]}ies" if last.endswith("y") else f"{last}s"
        else:
            words[-1] = _ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return " ".join(words)


def _cardinal(number: int) -> list[str]:
    """Return a number from 0 below 10^15 in words."""
    if number < 20:
        return [_SMALL[number]]
    if number < 100:
        tens, ones = divmod(number, 10)
        return [_TENS[tens], *([_SMALL[ones]] if ones else [])]
    size, name = next((size, name) for size, name in _LARGE if number >= size)
    times, rest = divmod(number, size)
    return [*_cardinal(times), name, *(_cardinal(rest) if rest else [])]
