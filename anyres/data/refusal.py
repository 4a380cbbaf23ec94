"""The error of a refused file."""

from __future__ import annotations


class RefusedError(Exception):
    """A file is refused. The message is the reason, in one line. Its words before the first colon are the kind of reason."""


def one_line(error: Exception) -> str:
    """Return the message of a library's error on one line, at most 150 characters."""
    return " ".join(str(error).split())[:150] or type(error).__name__
