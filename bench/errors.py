"""The one exception that a user sees: a line that says what is wrong, where, and what to do."""


class UserError(Exception):
    """Something the user can mend. The command line prints its text alone and exits with status 2."""


def unforeseen(error: Exception) -> str:
    """The line for an exception that nobody thought of."""
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason} (set ISOALIGN_DEBUG=1 for the traceback)"


class TrainingFailed(UserError):
    """A method's own training failed: it is noted beside the cards, where a mistyped setting is not."""
