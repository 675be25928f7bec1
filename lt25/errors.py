"""The error for mistakes that the user can fix."""

import re
from types import TracebackType

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What breaks a line or steers a terminal, and what no encoding has: a message shows it as an escape sequence."""


class UserError(Exception):
    """A problem that the user can fix: one line that says what, where (file and key), what was expected and what to do.

    The command line prints the message without a traceback and exits with status 2.

    Attributes:
        lines: a line for each of several problems that were found together; as a text it is the first, and how many follow.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = tuple(
            _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), line) for line in lines
        )

    def __str__(self) -> str:
        first, *others = self.lines or ("",)
        return f"{first} (and {len(others)} more, which `lt25 check` lists)" if others else first


class Mistakes:
    """Collects the errors of several checks, each in a ``with`` block of its own, so that they are said together."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        """Take note of a `UserError`, and go on after the block."""
        if isinstance(error, UserError):
            self.lines += [line for line in error.lines if line not in self.lines]
        return isinstance(error, UserError)

    def complain(self) -> None:
        """Raise all that was collected as one `UserError`, if there is anything."""
        if self.lines:
            raise UserError(*self.lines)
