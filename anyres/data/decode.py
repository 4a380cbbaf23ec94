"""Decode any picture file to upright 8-bit sRGB. Limits are checked against the header before a pixel is decoded.

libvips decodes and converts (ICC through LittleCMS, 16 bits, CMYK). Pillow opens the formats that libvips's wheel lacks.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
from PIL import Image, ImageOps, TiffImagePlugin

from anyres.data.refusal import RefusedError, one_line

# The other loaders of libvips read files that are not photographs (SVG, PDF, CSV).
LOADERS = ("jpegload", "pngload", "webpload", "gifload", "tiffload", "ppmload", "jp2kload", "jxlload", "heifload")
ANIMATED_LOADERS = ("pngload", "webpload", "gifload", "heifload")
BITS = {"uchar": 8, "ushort": 16}
DEFAULT_BACKGROUND = (0, 0, 0)


@dataclass(frozen=True)
class Decoded:
    """A decoded picture: `pixels` (h, w, 3) sRGB uint8, the `mode` of the file, and the conversions in order."""

    pixels: np.ndarray
    mode: str
    converted: tuple[str, ...]


def decode_srgb(
    content: Path | bytes, background: tuple[int, int, int] = DEFAULT_BACKGROUND, animated: str = "refuse"
) -> np.ndarray:
    """Return the upright sRGB picture of a path or of bytes, uint8 (h, w, 3). Raises RefusedError with the reason."""
    return decode(content if isinstance(content, bytes) else content.read_bytes(), background, animated).pixels


def decode(
    data: bytes,
    background: tuple[int, int, int] = DEFAULT_BACKGROUND,
    animated: str = "refuse",
    min_side_px: int = 1,
    max_mpx: float = float("inf"),
) -> Decoded:
    """Decode a picture file.

    Orientation follows EXIF. Colours follow the embedded profile; without one they are read as sRGB (CMYK: libvips's own
    profile). 16 bits are rounded down to 8. Transparent pixels are composited over `background` (sRGB). `animated` is
    "refuse" or "first_frame". The limits (short side in pixels, megapixels) are checked against the header, before decoding.
    Raises RefusedError with the reason for any other file, including a broken one.
    """
    if not data:
        raise RefusedError("empty file")
    try:
        header = _open(data)
        height, width = header.size
        if min(height, width) < min_side_px:
            raise RefusedError(f"too small: {width}x{height}, short side under {min_side_px}")
        if height * width > max_mpx * 1e6:
            raise RefusedError(f"too large: {width}x{height}, over {max_mpx:g} megapixels")
        if header.is_animated and animated == "refuse":
            raise RefusedError("animated")
        return _to_srgb(header, background)
    except RefusedError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files make decoders raise anything, UnicodeDecodeError included
        raise RefusedError(f"broken: {_first_line(error)}") from None


@dataclass(frozen=True)
class _Header:
    """The header of a file. `load` decodes the file."""

    size: tuple[int, int]  # (height, width) as stored
    frames: int
    is_animated: bool
    mode: str
    load: Callable[[], pyvips.Image]


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Suppress the warnings of decoders. Enter it in the main thread, around the threads that decode."""
    logger = logging.getLogger("pyvips")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _open(data: bytes) -> _Header:
    try:
        image = pyvips.Image.new_from_buffer(data, "", fail_on="truncated")
    except pyvips.Error as error:
        if "known format" in str(error):
            return _open_with_pillow(data)
        raise
    loader = str(image.get("vips-loader")).removesuffix("_buffer")
    if loader not in LOADERS:
        return _open_with_pillow(data)
    frames = _field(image, "n-pages", 1)
    is_animated = loader in ANIMATED_LOADERS and frames > 1
    if loader == "pngload":  # libvips reads only the first frame of an APNG; its chunk acTL precedes the data
        is_animated = b"acTL" in data[: data.find(b"IDAT")]

    def load() -> pyvips.Image:
        if loader == "tiffload":
            _refuse_truncated_tiff(data)
        return image

    return _Header((image.height, image.width), frames, is_animated, _mode(image), load)


def _open_with_pillow(data: bytes) -> _Header:
    try:
        picture = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise RefusedError(f"too large: {_first_line(error)}") from None
    except (OSError, SyntaxError, ValueError):
        raise RefusedError("not a picture file that can be read here") from None
    mode = f"{picture.format} {picture.mode}"
    if picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise RefusedError(f"{mode} samples are not supported")
    frames = getattr(picture, "n_frames", 1)

    def load() -> pyvips.Image:
        upright = ImageOps.exif_transpose(picture)
        image = pyvips.Image.new_from_array(
            np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB")), interpretation="srgb"
        )
        profile = picture.info.get("icc_profile")
        if profile and picture.mode in ("RGB", "RGBA"):
            image = image.copy()
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
        return image

    return _Header((picture.height, picture.width), frames, frames > 1, mode, load)


def _refuse_truncated_tiff(data: bytes) -> None:
    """Refuse a TIFF whose strips or tiles end after the end of the file: libtiff fills the missing pixels arbitrarily."""
    try:
        picture = Image.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError, AttributeError):
        return  # a variant that Pillow cannot open
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return
    tags = picture.tag_v2
    starts, counts = tags.get(273) or tags.get(324), tags.get(279) or tags.get(325)
    if not starts or not counts:
        raise RefusedError("broken: no positions of strips or tiles")
    ends = [start + count for start, count in zip(starts, counts, strict=False)]
    if max(ends) > len(data):
        raise RefusedError(f"broken: {max(ends) - len(data)} bytes are missing")


def _to_srgb(header: _Header, background: tuple[int, int, int]) -> Decoded:
    image, converted = header.load(), []
    if header.frames > 1 or header.is_animated:
        converted.append(f"first of {header.frames} frames" if header.frames > 1 else "first frame")
    if image.format not in BITS:
        raise RefusedError(f"{image.format} samples are not supported")
    orientation = _field(image, "orientation", 1)
    if orientation != 1:
        image = image.autorot()
        converted.append(f"orientation {orientation}")
    if header.mode.startswith("palette"):
        converted.append("palette to rgb")
    image, conversions = _to_srgb_colours(image)
    converted.extend(conversions)
    if image.hasalpha():
        image = image.flatten(background=list(background))
        converted.append(f"transparency over {background}")
    if image.bands != 3 or image.format != "uchar":
        raise RefusedError(f"{header.mode} with {image.bands} channels is not supported")
    return Decoded(np.ascontiguousarray(image.numpy()), header.mode, tuple(converted))


def _to_srgb_colours(image: pyvips.Image) -> tuple[pyvips.Image, list[str]]:
    """Convert to 8-bit sRGB and keep transparency. Return the image and the conversions."""
    cmyk = image.interpretation == "cmyk"
    deep = ["16 to 8 bits"] if image.format == "ushort" else []
    grey = ["grey to rgb"] if image.interpretation in ("b-w", "grey16") else []
    if "icc-profile-data" in image.get_fields() or cmyk:
        has_profile = "icc-profile-data" in image.get_fields()
        try:
            in_srgb = image.icc_transform(
                "srgb",
                embedded=has_profile,
                input_profile="cmyk" if cmyk else "srgb",
                intent="relative",
                black_point_compensation=True,
                depth=8,
            )
            # The transform is lazy: a profile that does not fit the pixels fails on the first pixel.
            in_srgb.crop(0, 0, 1, 1).numpy()
        except pyvips.Error:
            if cmyk:
                raise
            image = image.copy()
            image.remove("icc-profile-data")
            in_srgb, conversions = _to_srgb_colours(image)
            return in_srgb, ["icc profile unusable, taken for sRGB", *conversions]
        return in_srgb, [*deep, *grey, "icc profile to sRGB" if has_profile else "cmyk by the default profile"]
    if image.interpretation != "srgb" or deep:
        image = image.colourspace("srgb")
    return image, [*deep, *grey]


def _mode(image: pyvips.Image) -> str:
    """Return how the file stores its pixels: rgb8, grey16+alpha, palette8, cmyk8."""
    depth = _field(image, "bits-per-sample", BITS.get(str(image.format), 0)) or image.format
    kind = str(image.interpretation)
    kind = {"b-w": "grey", "grey16": "grey", "srgb": "rgb", "rgb16": "rgb"}.get(kind, kind)
    if _field(image, "palette", 0) or "palette-bit-depth" in image.get_fields():
        kind, depth = "palette", _field(image, "palette-bit-depth", 8)
    return f"{kind}{depth}" + ("+alpha" if image.hasalpha() else "")


def _field(image: pyvips.Image, name: str, default: int) -> int:
    return int(str(image.get(name))) if name in image.get_fields() else default


def _first_line(error: Exception) -> str:
    if isinstance(error, pyvips.Error) and error.detail:
        # The lines after the first depend on the order of libvips's threads.
        return " ".join(error.detail.strip().splitlines()[0].split())[:200]
    return one_line(error)
