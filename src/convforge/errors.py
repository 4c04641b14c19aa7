"""What a user's mistake arrives as."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be worked with. The message is one plain sentence: the offending value, and the way out.

    The command line prints it without a traceback and exits with status 2.
    """
