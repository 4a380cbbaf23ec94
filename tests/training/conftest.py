"""A small store of three pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from anyres.data.intake import intake
from anyres.data.pyramid import prepare
from anyres.data.sources import Access, open_source
from anyres.data.store import Store
from anyres.params import Params


@pytest.fixture(scope="session")
def store(tmp_path_factory, params: Params) -> Store:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index, size in enumerate([(96, 128), (130, 110), (200, 160)]):
        rows, columns = np.mgrid[: size[0], : size[1]]
        waves = [np.sin(rows / rng.uniform(3, 20) + columns / rng.uniform(3, 20)) for _ in range(3)]
        Image.fromarray((np.stack(waves, -1) * 100 + 128).astype(np.uint8)).save(folder / f"{index}.png")
    work = tmp_path_factory.mktemp("data")
    ingest = params.ingest.model_copy(update={"source": "folder", "folder": str(folder)})
    access = Access(work / "cache")
    intake(open_source(ingest, access), ingest, access, work / "ingested", progress=False)
    prepare(work / "ingested", params.prepare, work / "store", progress=False)
    return Store.open(work / "store")
