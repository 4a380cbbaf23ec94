"""Rows of the registered model: what they accept."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

pytestmark = pytest.mark.filterwarnings("ignore")

ROW: dict[str, Any] = {"seed": 7, "center_x": 0.0, "center_y": 0.0, "period": 0.05, "height": 20, "width": 28, "psi": 0.7}


def row(**values: Any) -> Any:
    from anyres.registry.serving import Row

    return Row.model_validate(ROW | values)


@pytest.mark.parametrize(
    ("column", "edge"), [("seed", 2**40 - 1), ("height", 1), ("height", 4096), ("width", 4096), ("psi", 0.0), ("psi", 1.5)]
)
def test_edges_are_accepted(column: str, edge: float) -> None:
    assert getattr(row(**{column: edge}), column) == edge


@pytest.mark.parametrize(
    ("column", "beyond"),
    [
        ("seed", -1),
        ("seed", 2**40),
        ("center_x", float("nan")),
        ("center_y", float("inf")),
        ("period", 0.0),
        ("period", float("inf")),
        ("height", 0),
        ("height", 4097),
        ("width", 0),
        ("width", 4097),
        ("psi", -0.01),
        ("psi", 1.51),
        ("colour", 1),
    ],
)
def test_values_beyond_are_refused_by_name(column: str, beyond: float) -> None:
    with pytest.raises(ValidationError, match=column):
        row(**{column: beyond})
