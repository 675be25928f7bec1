"""The error for mistakes that the user can fix."""


class UserError(Exception):
    """A problem that the user can fix: one line that says what, where (file and key), what was expected and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
