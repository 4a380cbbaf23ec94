"""Several trainings, one after the other, in the processes of one launch.

    accelerate launch ... several.py STORE TRAININGS.json

TRAININGS.json holds a list of [section train, folder, pictures of a pass at most or null]; each fills folder/out and folder/runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate import Accelerator

from anyres.data.store import Store
from anyres.params import Train
from anyres.training.run import train

if __name__ == "__main__":
    store = Store.open(Path(sys.argv[1]))
    accelerator = Accelerator(cpu=True)
    for values, folder, micro_batch in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        place = Path(folder)
        train(Train.model_validate(values), store, place / "out", place / "runs", accelerator, None, micro_batch)
    accelerator.end_training()
