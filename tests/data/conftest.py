"""Stores built in the test's own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from anyres.data.catalogue import Catalogue
from anyres.data.intake import decoder_pool, ingest_shard, intake, split_source, write_catalogue
from anyres.data.process_pool import LimitedProcessPool
from anyres.data.pyramid import Store, prepare
from anyres.data.sources.folder import records
from anyres.data.sources.record import Access

from .pictures import encoded, ingest_params, prepare_params

Build = Callable[..., Store]


def take_in(source: Path, out: Path, **changes: object) -> Catalogue:
    """Take a folder in with one worker, near-duplicates kept: pictures made of noise resemble each other."""
    params = ingest_params(**{"near_duplicates": "keep"} | changes)
    access = Access(out.with_name(f"{out.name}-cache"))
    return intake(records(source, access.cache_dir, params.max_mb), params, access, out, workers=1, progress=False)


@pytest.fixture(scope="session")
def decoders() -> Iterator[LimitedProcessPool]:
    """A process that decodes for all stores: to start one takes a second."""
    with decoder_pool(ingest_params()) as decoders:
        yield decoders


@pytest.fixture
def build(tmp_path: Path, decoders: LimitedProcessPool) -> Build:
    """Build a store of pictures given by name as arrays; keywords are prepare parameters."""
    params = ingest_params(near_duplicates="keep")

    def make(pictures: dict[str, np.ndarray], folder: str = "store", **changes: object) -> Store:
        source, ingested = tmp_path / f"{folder}-pictures", tmp_path / f"{folder}-ingested"
        source.mkdir()
        for name, pixels in pictures.items():
            (source / f"{name}.png").write_bytes(encoded(pixels, "PNG", compress_level=1))
        access = Access(tmp_path / f"{folder}-cache")
        shards = split_source(records(source, access.cache_dir, params.max_mb), params)
        rows = [ingest_shard(shard, params, access, ingested / "shards", decoders) for shard in shards]
        write_catalogue(rows, ingested, params)
        return prepare(ingested, prepare_params(**changes), tmp_path / folder, progress=False)

    return make
