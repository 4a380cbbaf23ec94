"""Values of params.yaml for one run, written as `train.kimg=500`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from anyres.files import write_atomic
from anyres.params import ParamsError


def override(path: Path, overrides: Sequence[str]) -> None:
    """Set keys of the file; raise ParamsError, one line, on a key that it does not hold or a value that is no YAML.

    Types and bounds are checked where the file is read.
    """
    if not overrides:
        return
    yaml = YAML()
    values = yaml.load(path)
    for word in overrides:
        key, equals, text = word.partition("=")
        *sections, last = key.strip().split(".")
        place = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not equals or not isinstance(place, dict) or last not in place:
            raise ParamsError(f"override {word!r}: {path} has no key {key.strip()!r}; write it as train.kimg=500")
        try:
            place[last] = YAML(typ="safe", pure=True).load(text)
        except YAMLError:
            raise ParamsError(f"override {word!r}: not readable as YAML; write it as train.kimg=500") from None
    stream = io.BytesIO()
    yaml.dump(values, stream)
    write_atomic(path, stream.getvalue())
