"""Why a file is set aside."""

from __future__ import annotations


class RefusedError(Exception):
    """A file is set aside; the message is the reason, in one line, its first words (up to a colon) the kind of reason."""


def in_few_words(error: Exception) -> str:
    """What a library says of a failure, on one line."""
    return " ".join(str(error).split())[:150] or type(error).__name__
