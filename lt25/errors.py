"""The one kind of failure that is a user's to mend."""


class UserError(Exception):
    """A problem that the user can mend: one line that says what, where (file and key), what was expected and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
