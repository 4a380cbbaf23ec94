"""Checkouts in which the whole pipeline takes seconds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]

SIZES = [(150, 200), (240, 180), (130, 390), (200, 200), (260, 190)]
TINY: dict[str, dict[str, Any]] = {
    "ingest": {"source": "folder"},
    "train": {
        "kimg": 2.0,
        "batch": 8,
        "patch_px": [16, 24],
        "zoom_max": 4.0,
        "report_every_kimg": 0.2,
        "sample_every_kimg": 1.0,
        "checkpoint_every_kimg": 0.4,
        "monitor": {"every_kimg": 8.0, "samples": 20, "patience": 0, "keep": "best"},
    },
    "evaluate": {"num_samples": 16, "num_sweep_samples": 8, "sizes": [24, 40], "num_scenes": 2, "bootstrap": 3},
    "export": {"samples": 2},
}
NETWORK = {"z_dim": 12, "w_dim": 10, "stem_layers": 1, "channels": [16, 12, 8], "octaves": 4, "features_per_octave": 6}
DISCRIMINATOR = {"channels": [8, 12, 16], "attention_heads": 2, "pooled_px": 2, "downsample": "average"}


def change(checkout: Path, section: str, **values: Any) -> None:
    yaml = YAML()
    params = yaml.load(checkout / "params.yaml")
    params[section].update(values)
    yaml.dump(params, checkout / "params.yaml")


def hand_out(folder: Path) -> Path:
    """Copy the files of the working tree that git does not ignore to `folder`; its source is an empty folder of pictures."""
    ls = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(ls, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    for section, values in TINY.items():
        change(folder, section, **values)
    change(folder, "train", network=NETWORK | {"mapping_layers": 2}, discriminator=DISCRIMINATOR)
    return folder


def add_pictures(folder: Path) -> None:
    """Draw a few photographs into the source of a checkout."""
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / "pictures" / f"{index}.png")
