"""A latent: the styles of a scene, and its file. Projection writes one; every command takes it in place of a seed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from anyres.files import write_atomic
from anyres.networks.scene import Box, Pin, Scene

FORMAT = "anyres-latent-1"
# Tensors of pinned fields, numbered.
PINNED = "pin."


@dataclass(frozen=True)
class Latent:
    """Styles w (num_ws, w_dim) of a generator's layers, and the seed of its fields.

    For generators with local latents also the latent z (z_dim,) and the fitted fields.
    """

    w: Tensor
    seed: int = 0
    z: Tensor | None = None
    pin: Pin | None = None

    def scene(self, z_dim: int, device: torch.device | str = "cpu") -> Scene:
        """Return the scene that a generator draws."""
        scene = Scene.of([self.seed], z_dim, device)
        z = scene.z if self.z is None else self.z[None].to(device)
        return replace(scene, z=z, w=self.w[None].to(device), pin=self.pin)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically."""
        from safetensors.torch import save

        tensors, metadata = {"w": self.w}, {"format": FORMAT, "seed": str(self.seed)}
        if self.z is not None:
            tensors["z"] = self.z
        if self.pin is not None:
            tensors |= {f"{PINNED}{index}": box.values for index, box in enumerate(self.pin.boxes)}
            metadata |= {"period": repr(self.pin.period), "boxes": json.dumps([box[:3] for box in self.pin.boxes])}
        contiguous = {name: value.detach().cpu().float().contiguous() for name, value in tensors.items()}
        write_atomic(Path(path), save(contiguous, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> Latent:
        """Read a file of `save`. Raises ValueError, one line, for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(
                        f"{path}: no latent of this version ({metadata.get('format')}); make it with `anyres invert`"
                    )
                z = file.get_tensor("z") if "z" in file.keys() else None  # noqa: SIM118
                pin = None
                if "boxes" in metadata:
                    places = enumerate(json.loads(metadata["boxes"]))
                    boxes = (Box(name, row, column, file.get_tensor(f"{PINNED}{i}")) for i, (name, row, column) in places)
                    pin = Pin(float(metadata["period"]), tuple(boxes))
                return cls(file.get_tensor("w"), int(metadata["seed"]), z, pin)
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: no latent ({' '.join(str(error).split())[:200]}); make one with `anyres invert`") from None
