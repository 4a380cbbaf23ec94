"""The page of a run in Prefect: sample pictures, metrics, and links to MLflow."""

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

# The picture is embedded in the text of the page.
MAX_SIDE_PX = 768


def show(stage: str) -> None:
    """Show the results of `stage`; most stages have none to show."""
    shows: dict[str, Callable[[], Any]] = {"train": show_samples, "evaluate": show_metrics}
    if stage in shows:
        shows[stage]()


def show_samples() -> None:
    """Show the newest sample pictures of the training."""
    from PIL import Image

    pictures = sample_pictures(TRAINED / "samples")
    if not pictures:
        return
    nimg, path = pictures[-1]
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    stream = io.BytesIO()
    small.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    text = f"The same scenes at growing zoom, one row each, after {nimg:,} images.\n\n![samples](data:image/png;base64,{data})"
    create_markdown_artifact(text, key="samples", description="Sample pictures of the training")


def show_metrics() -> None:
    """Show the metrics of the evaluation in a table."""
    metrics = json.loads((EVALUATION / "metrics.json").read_text(encoding="utf-8"))
    rows = [{"metric": key, "value": f"{value:.5g}"} for key, value in metrics.items() if isinstance(value, int | float)]
    create_table_artifact(rows, key="metrics", description="Metrics of the evaluation")


def show_links(params: Params, environment: Environment, verdict: str) -> None:
    """Show the result of the registration, and links to model and run in MLflow."""
    from pipelines.services.tracking import addresses

    links = addresses(environment, params.export.name, bundle_hash(BUNDLE))
    lines = [verdict, "", *(f"- [{name}]({url})" for name, url in links.items())]
    if not links:
        lines.append(f"- `mlflow ui --backend-store-uri {environment.tracking_uri}`")
    create_markdown_artifact("\n".join(lines), key="model", description="The model in MLflow")
