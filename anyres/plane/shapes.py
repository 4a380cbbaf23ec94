"""Shape annotations, such as `Float[Tensor, "b 3 h w"]`: the names of jaxtyping, which only the tests check.

Without jaxtyping, as where a registered model is served, an annotation is the plain tensor or array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int64, Shaped, UInt8
else:
    try:
        from jaxtyping import Float, Float32, Float64, Int64, Shaped, UInt8
    except ImportError:

        class _Plain:
            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Float = Float32 = Float64 = Int64 = Shaped = UInt8 = _Plain

__all__ = ["Float", "Float32", "Float64", "Int64", "Shaped", "UInt8"]
