"""A generator as an ONNX file: one graph that draws any window, for whoever has onnxruntime alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from anyres.export.traced import INPUTS, OUTPUTS, example, quiet, traced
from anyres.networks.generator import StyleGenerator
from anyres.plane.window import Window

# The first that has bitwise operations on whole numbers, which the fields hash with.
OPSET = 18


def onnx_file(generator: StyleGenerator, about: Mapping[str, str]) -> bytes:
    """The content of an .onnx file: inputs INPUTS, outputs OUTPUTS, `about` among its metadata.

    Raises ValueError, one line, for a generator that no graph can draw, and ModuleNotFoundError without the packages of
    anyres[onnx].
    """
    from onnxscript.optimizer import fold_constants

    with quiet():
        program = torch.onnx.export(
            traced(generator),
            dynamo=True,
            opset_version=OPSET,
            output_names=list(OUTPUTS),
            custom_translation_table={torch.ops.aten.__rshift__.Scalar: _shifted()},
            # Its rewriting takes longer than all the rest, for nothing that onnxruntime would not do.
            optimize=False,
            verbose=False,
        )
        assert program is not None
        fold_constants(program.model)
        _tidy(program.model)
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.doc_string = (INPUTS | OUTPUTS)[str(value.name)]
    program.model.producer_name, program.model.producer_version = "anyres", None
    program.model.metadata_props.update(about)
    return program.model_proto.SerializeToString()


def drawn_by_onnxruntime(content: bytes, seed: int, window: Window, psi: float) -> np.ndarray:
    """`values` of a file at a window, float32 (3, h, w). Raises ModuleNotFoundError without onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = {name: value.numpy() for name, value in zip(INPUTS, example(seed, window, psi), strict=True)}
    (values,) = session.run(["values"], inputs)
    return np.asarray(values)[0]


def _shifted() -> Any:
    """How `int64 >> bits` is written: ONNX shifts unsigned numbers alone, and of signed ones fields keep the lower bits only."""
    from onnx import TensorProto
    from onnxscript import opset18

    op: Any = opset18

    def shifted(x: Any, bits: int) -> Any:
        count = op.Cast(op.Constant(value_int=bits), to=TensorProto.UINT64)
        return op.Cast(op.BitShift(op.Cast(x, to=TensorProto.UINT64), count, direction="RIGHT"), to=TensorProto.INT64)

    return shifted


def _tidy(model: Any) -> None:
    """Drop what is computed twice or for nothing, and what tells where this code lay."""
    from onnx_ir.passes import common

    for step in (
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(model)
