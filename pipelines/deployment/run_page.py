"""What a run shows on its page in Prefect: pictures, numbers, and where to go on in MLflow."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from anyres.params import Params
from pipelines.environment import Environment
from pipelines.services.history import sample_pictures
from pipelines.services.registration import bundle_hash
from pipelines.stage import BUNDLE, EVALUATION, TRAINED

# A picture travels inside the page's text.
WIDEST_PX = 768


def show(stage: str) -> None:
    """Show what `stage` made; of most stages that is nothing."""
    shows: dict[str, Callable[[], Any]] = {"train": show_samples, "evaluate": show_metrics}
    if stage in shows:
        shows[stage]()


def show_samples() -> None:
    """The newest sample pictures of the training."""
    from PIL import Image

    pictures = sample_pictures(TRAINED / "samples")
    if not pictures:
        return
    nimg, path = pictures[-1]
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDEST_PX, WIDEST_PX))
    stream = io.BytesIO()
    small.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    text = f"The same scenes at growing zoom, a row a zoom, after {nimg:,} images.\n\n![samples](data:image/png;base64,{data})"
    create_markdown_artifact(text, key="samples", description="Sample pictures of the training")


def show_metrics() -> None:
    """The numbers of the evaluation, a row each."""
    metrics = json.loads((EVALUATION / "metrics.json").read_text(encoding="utf-8"))
    rows = [{"metric": key, "value": f"{value:.5g}"} for key, value in metrics.items() if isinstance(value, int | float)]
    create_table_artifact(rows, key="metrics", description="What out/evaluation/metrics.json says")


def show_links(params: Params, environment: Environment, verdict: str) -> None:
    """The verdict of the registration, and the model and its run in MLflow."""
    from pipelines.services.tracking import addresses

    found = addresses(environment, params.export.name, bundle_hash(BUNDLE))
    lines = [verdict, "", *(f"- [{name}]({url})" for name, url in found.items())]
    if not found:
        lines.append(f"- `mlflow ui --backend-store-uri {environment.tracking_uri}`")
    create_markdown_artifact("\n".join(lines), key="model", description="The model in MLflow")
