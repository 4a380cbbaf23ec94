"""Near-duplicates, such as rescaled or recompressed copies: detected by perceptual hash, confirmed on thumbnails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from anyres.data.catalogue import CatalogueRow

# The hashes of a picture and its copy differ in at most this many of 64 bits.
MAX_BITS = 4
# Bits of each band. There is one band more than MAX_BITS, so that hashes within MAX_BITS agree in at least one band
# (pigeonhole principle).
BANDS = (13, 13, 13, 13, 12)
# Mean squared difference of normalised thumbnails, relative to their variance. Copies are below 0.002; different pictures
# with the same hash are above 0.05.
MAX_DIFFERENCE = 0.01
# Copies have the same aspect, except for rounding and a crop of one pixel.
MAX_STRETCH = 1.02


def find_near_duplicates(rows: Sequence[CatalogueRow]) -> dict[int, int]:
    """Return {index of a near-duplicate: index of the row that is kept instead}.

    The row with more pixels is kept; of equal sizes, the first.
    """
    order = sorted((i for i, row in enumerate(rows) if row.phash), key=lambda i: (-rows[i].width * rows[i].height, i))
    hashes = {index: int(rows[index].phash, 16) for index in order}
    bands: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in BANDS]
    kept_instead: dict[int, int] = {}
    for index in order:
        keys = _keys(hashes[index])
        candidates = {
            other
            for band, key in zip(bands, keys, strict=True)
            for other in band[key]
            if (hashes[index] ^ hashes[other]).bit_count() <= MAX_BITS
        }
        matches = [other for other in sorted(candidates) if _look_alike(rows[index], rows[other])]
        if matches:
            kept_instead[index] = matches[0]
            continue
        for band, key in zip(bands, keys, strict=True):
            band[key].append(index)
    return kept_instead


def _keys(bits: int) -> list[int]:
    """Split a hash into its bands."""
    keys = []
    for width in BANDS:
        keys.append(bits & (1 << width) - 1)
        bits >>= width
    return keys


def _look_alike(a: CatalogueRow, b: CatalogueRow) -> bool:
    if not 1 / MAX_STRETCH <= a.width * b.height / (b.width * a.height) <= MAX_STRETCH:
        return False
    x, y = (np.frombuffer(row.thumbnail, np.int8).astype(np.float64) for row in (a, b))
    return float(((x - y) ** 2).mean() / (x.std() * y.std())) <= MAX_DIFFERENCE
