"""Pages from templates: self-contained, everything escaped, numbers in a readable form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill_template(template: str, content: Mapping[str, Any]) -> bytes:
    """Fill a template of this package. A name missing from `content` is an error."""
    environment = Environment(
        loader=PackageLoader("anyres.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "kid": three_places, "count": lambda value: f"{value:,}".replace(",", "\u202f")}
    return environment.get_template(template).render(content).encode()


def number(value: float) -> str:
    """Format with three significant digits; very small and very large values as powers of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 3 if value == 0 else max(0, 2 - _magnitude(value))
        return f"{value:.{digits}f}".replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}".replace("-", "−")


def three_places(value: float) -> str:
    """Format a KID with three decimals: its error is in the third. It may be slightly negative by chance."""
    return f"{value:.3f}".replace("-0.000", "0.000").replace("-", "−")


def _magnitude(value: float) -> int:
    return int(f"{value:e}".split("e")[1])
