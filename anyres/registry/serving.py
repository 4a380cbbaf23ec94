"""The registered model: rows of numbers in, PNG pictures out. MLflow runs this file on its own ("models from code")."""

# ruff: noqa: TID251 - mlflow runs this file
from __future__ import annotations

import base64
import io
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from pydantic import BaseModel, ConfigDict, Field

MAX_SIDE_PX = 4096


class Row(BaseModel):
    """One picture to draw: seed, center and period in plane units, height and width in pixels, truncation psi."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(ge=0, lt=2**40)
    center_x: float = Field(default=0.0, allow_inf_nan=False)
    center_y: float = Field(default=0.0, allow_inf_nan=False)
    period: float = Field(gt=0, allow_inf_nan=False)
    height: int = Field(ge=1, le=MAX_SIDE_PX)
    width: int = Field(ge=1, le=MAX_SIDE_PX)
    psi: float = Field(default=0.7, ge=0, le=1.5)


class Picture(BaseModel):
    """A PNG file in base64, and its size."""

    png: str
    mime: str
    height: int
    width: int


class AnyresModel(PythonModel):
    """`predict` draws one PNG for each row."""

    def load_context(self, context: Any) -> None:
        from anyres.export.bundle import load

        self.model = load(context.artifacts["bundle"])

    # MLflow takes the signature from these types; it leaves out `context` by design.
    def predict(self, model_input: list[Row]) -> list[Picture]:  # type: ignore[override]
        # Plain dicts: what a caller gets here is what a caller gets over REST.
        pictures: list[Any] = [self._draw(row).model_dump() for row in model_input]
        return pictures

    def _draw(self, row: Row) -> Picture:
        from PIL import Image

        from anyres.plane.window import Window

        window = Window((row.center_x, row.center_y), row.period, (row.height, row.width))
        file = io.BytesIO()
        Image.fromarray(self.model.render(row.seed, window, psi=row.psi)).save(file, "PNG")
        png = base64.b64encode(file.getvalue()).decode("ascii")
        return Picture(png=png, mime="image/png", height=row.height, width=row.width)


set_model(AnyresModel())
