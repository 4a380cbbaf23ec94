"""Presets: parts of params.yaml that belong together, one file each in this folder."""

from __future__ import annotations

import tempfile
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from anyres.files import write_atomic
from anyres.params import Params, ParamsError


def shipped() -> dict[str, Path]:
    """Names of the shipped presets -> their files, each a part of params.yaml."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def use(name: str, path: Path) -> None:
    """Write the values of a preset into the params file `path`, whose other values and comments stay.

    A network is replaced as a whole, since each method has other keys. Raises ParamsError, one line, and leaves the file
    as it is where there is no such preset or file, or the result does not fit together.
    """
    known = shipped()
    if name not in known:
        raise ParamsError(f"no preset {name!r}; there are {', '.join(known)}")
    Params.load(path)
    yaml = YAML()
    yaml.width = 130
    values = yaml.load(path.read_text(encoding="utf-8"))
    for section, changes in yaml.load(known[name].read_text(encoding="utf-8")).items():
        for key, value in changes.items():
            if isinstance(value, dict) and key != "network":
                values[section][key].update(value)
            else:
                values[section][key] = value
    out = StringIO()
    yaml.dump(values, out)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, path.name)
        trial.write_text(out.getvalue(), encoding="utf-8")
        Params.load(trial)
    write_atomic(path, out.getvalue().encode())
