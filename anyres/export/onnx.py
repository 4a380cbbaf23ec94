"""A generator as an ONNX file: one graph that draws any window and needs only onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from anyres.export.traced import INPUTS, OUTPUTS, example, quiet, trace
from anyres.networks.generator import StyleGenerator
from anyres.plane.window import Window

# The first opset with bitwise operations on integers, which the hash of the fields needs.
OPSET = 18


def onnx_file(generator: StyleGenerator, about: Mapping[str, str]) -> bytes:
    """Return the content of an .onnx file: inputs INPUTS, outputs OUTPUTS, `about` in its metadata.

    Raises ModuleNotFoundError without the packages of anyres[onnx].
    """
    from onnxscript.optimizer import fold_constants

    with quiet():
        program = torch.onnx.export(
            trace(generator),
            dynamo=True,
            opset_version=OPSET,
            output_names=list(OUTPUTS),
            custom_translation_table={torch.ops.aten.__rshift__.Scalar: _right_shift()},
            # The optimizer takes longer than the rest of the export, and onnxruntime optimizes on its own.
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


def draw_with_onnxruntime(content: bytes, seed: int, window: Window, psi: float) -> np.ndarray:
    """Return `values` of a file at a window, float32 (3, h, w). Raises ModuleNotFoundError without onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = {name: value.numpy() for name, value in zip(INPUTS, example(seed, window, psi), strict=True)}
    (values,) = session.run(["values"], inputs)
    return np.asarray(values)[0]


def _right_shift() -> Any:
    """Translate `int64 >> bits`. ONNX shifts only unsigned integers; the fields use only the lower bits of the result."""
    from onnx import TensorProto
    from onnxscript import opset18

    op: Any = opset18

    def shift_right(x: Any, bits: int) -> Any:
        count = op.Cast(op.Constant(value_int=bits), to=TensorProto.UINT64)
        return op.Cast(op.BitShift(op.Cast(x, to=TensorProto.UINT64), count, direction="RIGHT"), to=TensorProto.INT64)

    return shift_right


def _tidy(model: Any) -> None:
    """Remove duplicate and unused computations, and paths of this code."""
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
