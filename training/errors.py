"""The one exception that is meant for the user."""


class UserError(ValueError):
    """Wrong input: says what was expected, what was found and what to do.

    The scripts print it as one line and exit with status 2; anything else is a bug and keeps its traceback.
    """
