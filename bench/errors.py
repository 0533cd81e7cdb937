"""The one exception that a user sees: a line that says what is wrong, where, and what to do."""


class UserError(Exception):
    """Something the user can mend. The command line prints its text alone and exits with status 2."""
