"""Whatever the schema allows or forbids: an answer in time, and never a fault of the server."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from anyres.viewer.drawing import ServedModel
from tests.viewer.servers import ask

EXAMPLES = 20
ANSWER_S = 60.0
# As many as there are is asserted below: what is new is to be asked too.
SILENT = ["GET /healthz", "GET /metrics", "GET /api/models", "GET /api/registry"]
TOLD = [
    "POST /api/registry/{version}",
    "POST /api/scenes/{model}",
    "POST /api/photographs/{model}",
    "GET /api/photographs/jobs/{job}",
    "DELETE /api/photographs/jobs/{job}",
    "GET /api/tile/{model}/{scene}/{level}/{x}_{y}.png",
    "GET /api/render",
]


@pytest.fixture(scope="module")
def operations(address: str) -> dict[str, Any]:
    described = schemathesis.openapi.from_url(f"{address}/api/openapi.json")
    found = [result.ok() for result in described.get_all_operations()]
    return {operation.label: operation for operation in found}


def test_all_that_can_be_asked_is_asked(operations: dict[str, Any]):
    assert sorted(operations) == sorted(SILENT + TOLD)


CASES = [(label, GenerationMode.POSITIVE) for label in SILENT + TOLD] + [(label, GenerationMode.NEGATIVE) for label in TOLD]


@pytest.mark.parametrize(("label", "mode"), CASES, ids=lambda part: str(part))
def test_nothing_that_is_asked_breaks_the_server(
    address: str, operations: dict[str, Any], frame: ServedModel, label: str, mode: GenerationMode
):
    operation = operations[label]

    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def holds(case: Any, known: bool) -> None:
        # A model that there is lets the rest be looked at.
        for told in (case.path_parameters, case.query):
            if known and "model" in (told or {}):
                told["model"] = frame.id
        answer = case.call(timeout=ANSWER_S)
        # Too much at once is no fault, where it says when to come again.
        assert answer.status_code < 500 or (answer.status_code == 503 and answer.headers["retry-after"]), answer.text
        assert "Traceback" not in answer.text

    holds()
    assert ask(address, "/healthz")[2] == b"ok\n"
