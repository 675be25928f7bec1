"""What cannot be used of a dataset: it is left out and counted, or preparation stops, as ``prepare.faulty`` says."""

from collections import Counter
from dataclasses import dataclass, field, replace

from lt25.errors import UserError
from lt25.progress import say

REASONS = {
    "a missing file": "a table names a file that is not there",
    "a file name that leads outside": "a table names a file outside the dataset's folder",
    "a file that cannot be read": "an image, a recording or an array is damaged, cut short, empty or of more than a gigabyte",
    "a file of a kind that is not read": "an image in a format that has to be converted first, as HEIC",
    "an image that is too large": "it has more than 100 million pixels",
    "a row that cannot be read": "a line of CSV has not the header's fields; one of JSON is broken, too deep or has a key twice",
    "text in another encoding": "a text or a label has a byte that `encoding` does not have, or half a pair of surrogates",
    "a missing value": "a field is empty or `null`, or a line of JSON lacks the column",
    "an unusable label": "a label is neither a name nor a whole number, is none of train's, or changes within a series",
    "input of another kind": "a series among images, a recording among series",
    "input of another width": "a step has another number of values than in most series of train",
    "values that are no numbers": "a series is no list of finite numbers, or has one 1e18 deviations from train's mean",
    "a time of another form": "it is neither a number nor a date or time that is written year or hour first",
    "input that is too long": "it has more steps than `prepare.max_steps`",
    "a recording that is too long": "it is longer than `prepare.max_seconds`",
    "a segment that is not there": "its start, end or duration is no number of seconds, or it is not within its file",
    "a silent recording": "nothing in it is louder than the rounding noise of 16 bits",
    "a transcript of another kind": "it is no text",
    "a transcript outside the alphabet": "normalised, it has characters that `prepare.alphabet` lacks",
    "a word that train lacks": "`prepare.units` is `words`, and train has no transcript with the word",
    "an empty transcript": "nothing of it is left when it is normalised",
    "a transcript too long for its audio": "CTC needs a frame of the model for a unit, and one between two that are equal",
}
"""Reason -> what it means; docs/data.md has them as a table."""

NAMED = 10
"""So many faults are named, the first."""

MOST = 20
"""Preparation stops if more than one in so many examples cannot be used."""


class Fault(Exception):
    """Why one example cannot be used.

    Attributes:
        reason: what it is counted as, one of `REASONS`.
        where: the file, and where it has several examples the line or row.
        message: what is wrong there.
    """

    def __init__(self, reason: str, where: str, message: str) -> None:
        super().__init__(reason, where, message)
        self.reason, self.where, self.message = reason, where, message

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Faults:
    """The faults of a dataset. One that is found in several passes over the data counts once.

    Attributes:
        dataset: its name, for messages.
        policy: "exclude", "stop", or "" for a task without the key ``prepare.faulty``, which stops.
        within: what stands before the places, which tells datasets apart that are prepared together.
    """

    dataset: str
    policy: str = ""
    within: str = ""
    _found: dict[str, tuple[str, Fault]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._found)

    def of(self, dataset: str) -> "Faults":
        """Return what takes the faults of one of several datasets, which are counted and named together with these."""
        return replace(self, within=f"{dataset}: ")

    def add(self, split: str, fault: Fault) -> bool:
        """Take note of a fault; return whether it is a new one.

        Args:
            split: whose example it is; where that depends on what cannot be read, the split that others are held out of.
            fault: what is wrong.

        Raises:
            UserError: if the policy is to stop.
        """
        fault = Fault(fault.reason, f"{self.within}{fault.where}", fault.message)
        if self.policy != "exclude":
            instead = ", or set prepare.faulty to exclude" if self.policy else ""
            raise UserError(f"{fault}: mend or remove it{instead}")
        known = len(self)
        self._found.setdefault(fault.where, (split, fault))
        return len(self) > known

    def counts(self, split: str) -> dict[str, int]:
        """Return how many examples of a split are left out, by reason."""
        return dict(Counter(fault.reason for where, fault in self._found.values() if where == split).most_common())

    def named(self) -> list[str]:
        """Return the first faults, a line each."""
        return [str(fault) for _, fault in list(self._found.values())[:NAMED]]

    def report(self, used: int) -> None:
        """Say how many examples are left out and why, and name the first.

        Args:
            used: how many examples are not left out.

        Raises:
            UserError: if more than one in `MOST` is left out; so it always is where something is and nothing is used.
        """
        if not (lost := len(self._found)):
            return
        reasons = Counter(fault.reason for _, fault in self._found.values()).most_common()
        told = f"{lost} of {lost + used} examples cannot be used: " + ", ".join(f"{n} x {why}" for why, n in reasons)
        refused = lost * MOST > lost + used
        what = "cannot be used" if refused else "left out"
        if not refused:
            say(f"{self.dataset}: left out, {told}")
        for line in self.named():
            say(f"{self.dataset}: {what}: {line}")
        if lost > NAMED:
            say(f"{self.dataset}: {what}: {lost - NAMED} more")
        if refused:
            raise UserError(
                f"dataset {self.dataset}: {told}; the first: {self.named()[0]}: mend or remove them, more than one in "
                f"{MOST} is not left out"
            )
