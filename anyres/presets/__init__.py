"""Presets: sets of values for params.yaml, one file each in this folder."""

from __future__ import annotations

import tempfile
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from anyres.files import write_atomic
from anyres.params import Params, ParamsError


def preset_files() -> dict[str, Path]:
    """Return the file of each preset by its name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def apply_preset(name: str, path: Path) -> None:
    """Write the values of a preset into the params file `path`. Its other values and its comments stay.

    The section `network` is replaced completely, because each method has different keys. Raises ParamsError, one line, if
    there is no such preset or file, or if the resulting parameters are not valid. Then `path` is not changed.
    """
    presets = preset_files()
    if name not in presets:
        raise ParamsError(f"no preset {name!r}; there are {', '.join(presets)}")
    Params.load(path)
    yaml = YAML()
    yaml.width = 130
    values = yaml.load(path.read_text(encoding="utf-8"))
    for section, changes in yaml.load(presets[name].read_text(encoding="utf-8")).items():
        for key, value in changes.items():
            if isinstance(value, dict) and key != "network":
                values[section][key].update(value)
            else:
                values[section][key] = value
    text = StringIO()
    yaml.dump(values, text)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, path.name)
        trial.write_text(text.getvalue(), encoding="utf-8")
        Params.load(trial)
    write_atomic(path, text.getvalue().encode())
