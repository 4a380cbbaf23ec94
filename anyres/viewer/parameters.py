"""Types of request parameters that several routes share."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Path
from pydantic import BeforeValidator

WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")


def _plain_digits(value: object) -> object:
    """Refuse blanks, underscores and digits of other scripts, so that each whole number has one spelling."""
    if not WHOLE_NUMBER.fullmatch(str(value)):
        raise ValueError("not a whole number in plain digits")
    return value


WholeNumber = Annotated[int, BeforeValidator(_plain_digits)]
# The id of a model or of a job.
PathId = Annotated[str, Path(max_length=200)]
