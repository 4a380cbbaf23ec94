"""The memory that a pass needs for each pixel: what every generator declares, against what is counted."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anyres.networks import Scene, build_generator
from anyres.params import Params, Train
from anyres.plane.window import Window
from tests.export.bundles import GRID_NETWORK

GRID = GRID_NETWORK | {"channels": (48, 48, 48)}
NETWORKS: dict[str, dict[str, Any]] = {
    "continuum": {
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 1,
        "stem_layers": 1,
        "channels": (48, 48, 48),
        "octaves": 3,
        "features_per_octave": 4,
    },
    "scaleparty": GRID,
    "ms_pie": GRID,
    "cips": GRID,
    "anyres_gan": {
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 1,
        "layers": 6,
        "channel_base": 1536,
        "channel_max": 48,
        "input_octaves": 0,
        "output": "linear",
    },
    "infinity_gan": {
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 1,
        "local_dim": 4,
        "structure_channels": 8,
        "structure_layers": 1,
        "structure_kernel": 3,
        "structure_z": "normalized",
        "output": "tanh",
        "rgb_doubling": "smooth",
        "channels": (48, 48),
    },
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, while they are in use."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self.known.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.free, key, size)
        return result

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@pytest.mark.parametrize("method", NETWORKS)
def test_a_pass_needs_about_the_memory_that_its_generator_declares(params: Params, method: str) -> None:
    values = params.train.model_dump()
    values["loss"]["consistency"] = 0.0
    values |= {"method": method, "patch_px": (32, 32), "network": NETWORKS[method]}
    if method == "infinity_gan":
        values |= {"chart": "plane", "period_law": "fixed", "zoom_max": 2.0}
    generator = build_generator(Train.model_validate(values)).eval().requires_grad_(False)
    window = Window((0.0, 0.0), generator.geometry.periods[1] / 4, (224, 256))
    scene = Scene.of([1], 8)
    with torch.inference_mode(), LiveBytes() as counted:
        generator(scene, [window])
    share = counted.peak / (224 * 256 * generator.bytes_per_px)
    # The rest is what kernels of convolutions keep to themselves.
    assert 0.3 < share < 1.0
