from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from anyres.networks.layers import Linear, per_layer
from anyres.networks.pixels import to_uint8
from anyres.plane import fields, shapes
from anyres.plane.resample import render_real
from anyres.plane.window import Window
from anyres.training.losses import relativistic_g


def test_a_wrong_shape_raises() -> None:
    """The tests execute the annotations of the library."""
    assert relativistic_g(torch.zeros(3), torch.ones(3)).shape == ()
    with pytest.raises(TypeCheckError, match="relativistic_g"):
        relativistic_g(torch.zeros(3), torch.zeros(4))
    with pytest.raises(TypeCheckError, match="to_uint8"):
        to_uint8(torch.zeros(2, 4, 5, 6))
    with pytest.raises(TypeCheckError, match="lattice_bits"):
        fields.lattice_bits(torch.zeros(2).long(), torch.zeros(3, 5).long(), torch.zeros(2, 4).long())
    with pytest.raises(TypeCheckError, match="per_layer"):
        per_layer(torch.zeros((2, 3), dtype=torch.int64), 4)


def test_a_wrong_type_raises_and_arrays_are_checked_too() -> None:
    with pytest.raises(TypeCheckError, match="mix"):
        fields.mix(torch.zeros(3))
    with pytest.raises(TypeCheckError, match="render_real"):
        render_real(np.zeros((4, 5), np.uint8), Window((0.0, 0.0), 0.5, (4, 5)))


def test_methods_of_modules_are_checked() -> None:
    layer = Linear(5, 7)
    assert layer(torch.zeros(2, 5)).shape == (2, 7)
    with pytest.raises(TypeCheckError, match="forward"):
        layer(torch.zeros((2, 5), dtype=torch.int64))


def test_without_jaxtyping_an_annotation_is_the_plain_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    assert shapes.__file__ is not None
    spec = importlib.util.spec_from_file_location("plain_shapes", shapes.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    assert plain.Float[torch.Tensor, "b 3 h w"] is torch.Tensor
    assert {getattr(plain, name)[np.ndarray, "h w"] for name in shapes.__all__} == {np.ndarray}
