"""Near-duplicates: one picture rescaled or recompressed, found by perceptual hash and confirmed on thumbnails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from anyres.data.catalogue import Row

# Bits of 64 in which the hashes of a picture and its copy differ at most.
MAX_BITS = 4
# Bits of each band, one band more than MAX_BITS: hashes within that distance agree in one of them (pigeonhole).
BANDS = (13, 13, 13, 13, 12)
# Mean squared difference of normalised thumbnails, relative to their variance. Copies lie below 0.002, different
# pictures of one hash above 0.05.
MAX_DIFFERENCE = 0.01
# Copies keep their aspect to rounding and a pixel's crop.
MAX_STRETCH = 1.02


def near_duplicates(rows: Sequence[Row]) -> dict[int, int]:
    """Return for each row that is another's near-duplicate the index of that other, which stays.

    Of two the one with more pixels stays, of equals the first.
    """
    order = sorted((i for i, row in enumerate(rows) if row.phash), key=lambda i: (-rows[i].width * rows[i].height, i))
    hashes = {index: int(rows[index].phash, 16) for index in order}
    bands: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in BANDS]
    found: dict[int, int] = {}
    for index in order:
        own = hashes[index]
        keys = _keys(own)
        near = {
            other
            for band, key in zip(bands, keys, strict=True)
            for other in band[key]
            if (own ^ hashes[other]).bit_count() <= MAX_BITS
        }
        same = [other for other in sorted(near) if _alike(rows[index], rows[other])]
        if same:
            found[index] = same[0]
            continue
        for band, key in zip(bands, keys, strict=True):
            band[key].append(index)
    return found


def _keys(bits: int) -> list[int]:
    """Cut a hash into its bands."""
    keys = []
    for width in BANDS:
        keys.append(bits & (1 << width) - 1)
        bits >>= width
    return keys


def _alike(a: Row, b: Row) -> bool:
    if not 1 / MAX_STRETCH <= a.width * b.height / (b.width * a.height) <= MAX_STRETCH:
        return False
    x, y = (np.frombuffer(row.thumbnail, np.int8).astype(np.float64) for row in (a, b))
    return float(((x - y) ** 2).mean() / (x.std() * y.std())) <= MAX_DIFFERENCE
