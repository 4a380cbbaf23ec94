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
    """Set keys of the file; raise ParamsError, one line, for a key that is not in the file or a value that is not YAML.

    `Params.load` checks types and bounds.
    """
    if not overrides:
        return
    yaml = YAML()
    values = yaml.load(path)
    for assignment in overrides:
        key, equals, text = assignment.partition("=")
        *sections, last = key.strip().split(".")
        mapping = values
        for section in sections:
            mapping = mapping.get(section) if isinstance(mapping, dict) else None
        if not equals or not isinstance(mapping, dict) or last not in mapping:
            raise ParamsError(f"override {assignment!r}: {path} has no key {key.strip()!r}; write it as train.kimg=500")
        try:
            mapping[last] = YAML(typ="safe", pure=True).load(text)
        except YAMLError:
            raise ParamsError(f"override {assignment!r}: not readable as YAML; write it as train.kimg=500") from None
    stream = io.BytesIO()
    yaml.dump(values, stream)
    write_atomic(path, stream.getvalue())
