"""Execute shape annotations: the type checker that jaxtyping's import hook applies to the library in every test.

Rule: a module is checked if it imports `anyres.plane.shapes`. Only annotations that hold a shape are checked. While a graph is
exported nothing is checked: its sizes are symbols, and comparing them would bind the graph to one size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

ROOT = Path(__file__).resolve().parent.parent


def install() -> None:
    """Check modules that are imported from now on."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "anyres").rglob("*.py"))
        if "from anyres.plane.shapes import" in path.read_text(encoding="utf-8")
    ]
    install_import_hook(modules, "tests.shapecheck.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the shapes in a function's annotations, and nothing else."""
    shapes = {name: hint for name, hint in function.__annotations__.items() if has_shape(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    checks = beartype(function)

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if torch.compiler.is_exporting() else checks(*args, **kwargs)

    return check


def has_shape(hint: Any) -> bool:
    """Whether an annotation is or holds a shape."""
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(has_shape(part) for part in get_args(hint))
