"""A scene by its styles, as a file: what projection finds, and what every command takes in place of a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anyres.files import write_atomic
from anyres.networks.scene import Scene

FORMAT = "anyres-latent-1"


@dataclass(frozen=True)
class Latent:
    """Styles w (num_ws, w_dim) of a generator's layers, and the seed of its fields."""

    w: Tensor
    seed: int = 0

    def scene(self, z_dim: int, device: torch.device | str = "cpu") -> Scene:
        """The scene that a generator draws from it."""
        scene = Scene.of([self.seed], z_dim, device)
        return Scene(scene.z, scene.seeds, self.w[None].to(device))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        from safetensors.torch import save

        metadata = {"format": FORMAT, "seed": str(self.seed)}
        write_atomic(Path(path), save({"w": self.w.detach().cpu().float().contiguous()}, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> Latent:
        """Read a file of `save`. Raises ValueError, one line, where it is none."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(
                        f"{path}: no latent of this version ({metadata.get('format')}); make it with `anyres invert`"
                    )
                return cls(file.get_tensor("w"), int(metadata["seed"]))
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{path}: no latent ({' '.join(str(error).split())[:200]}); make one with `anyres invert`") from None
