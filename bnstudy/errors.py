"""The one kind of error that a user can mend; the command line prints its text and exits with code 2."""


class UserError(Exception):
    """A mistake in what the user asked for.

    The text is one or two lines: which key, which value, and what would be accepted. It is shown without a traceback.

    Source: docs/architecture.md, "Faults and secrets".
    """
