"""Every way a picture can be stored arrives as upright 8-bit sRGB, or is refused with the reason."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from anyres.data.decode import RefusedError, decode, decode_srgb

from .pictures import encoded, photograph

PICTURE = photograph(40, 56, seed=3)


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).max())


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def profile(name: str) -> bytes:
    """An ICC profile built into libvips: "p3" or "cmyk"."""
    return pyvips.Operation.call("profile_load", name)


def reference_conversion(source: Image.Image, icc: bytes) -> np.ndarray:
    """sRGB by Pillow's LittleCMS: relative colorimetric with black point compensation."""
    converted = ImageCms.profileToProfile(
        source,
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return np.asarray(converted)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "GIF", "WEBP"])
def test_a_lossless_file_keeps_its_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    source = Image.fromarray(PICTURE)
    source = source.quantize(200) if kind == "GIF" else source
    assert np.array_equal(decode(encoded(source, kind, **options)).pixels, np.asarray(source.convert("RGB")))


def test_a_path_without_suffix_reads_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(encoded(PICTURE, "PNG"))
    assert np.array_equal(decode_srgb(tmp_path / "picture"), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    # How a camera stores the upright picture: the inverse of the transform that viewers apply.
    stored = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.swapaxes(0, 1),
        6: np.rot90(PICTURE),
        7: PICTURE[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(PICTURE, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }.get(kind, {})
    decoded = decode(encoded(np.ascontiguousarray(stored), kind, exif=exif.tobytes(), **options))
    assert decoded.pixels.shape == PICTURE.shape
    # JPEG and AVIF of noise at quality 100 are off by a few levels; another orientation is off by dozens on average.
    assert np.abs(decoded.pixels.astype(float) - PICTURE).mean() < (3 if kind in ("JPEG", "AVIF") else 1e-9)


def test_orientation_is_stated() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(PICTURE, "PNG", exif=exif)).converted == ("orientation 6",)


def test_an_embedded_profile_is_converted_to_srgb() -> None:
    decoded = decode(encoded(PICTURE, "PNG", icc_profile=profile("p3")))
    assert decoded.converted == ("icc profile to sRGB",)
    assert largest_difference(decoded.pixels, reference_conversion(Image.fromarray(PICTURE), profile("p3"))) <= 2
    assert largest_difference(decoded.pixels, PICTURE) > 8


def test_an_srgb_profile_changes_nothing_visible() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert largest_difference(decode(encoded(PICTURE, "PNG", icc_profile=icc)).pixels, PICTURE) <= 1


@pytest.mark.parametrize("icc", [b"no profile at all", profile("cmyk")], ids=["garbage", "cmyk"])
def test_a_profile_that_does_not_fit_is_ignored_and_stated(icc: bytes) -> None:
    decoded = decode(encoded(PICTURE, "PNG", icc_profile=icc))
    assert np.array_equal(decoded.pixels, PICTURE)


@pytest.mark.parametrize("own_profile", [True, False])
def test_cmyk_jpeg(own_profile: bool) -> None:
    inks = Image.fromarray(np.dstack([PICTURE // 2, PICTURE[..., :1] // 4]), mode="CMYK")
    options = {"icc_profile": profile("cmyk")} if own_profile else {}
    data = encoded(inks, "JPEG", quality=100, subsampling=0, **options)
    decoded = decode(data)
    assert decoded.mode == "cmyk8"
    assert decoded.converted == (("icc profile to sRGB",) if own_profile else ("cmyk by the default profile",))
    expected = reference_conversion(Image.open(io.BytesIO(data)), profile("cmyk"))
    assert largest_difference(decoded.pixels, expected) <= 4


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 128, 10)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_the_background(mode: str, background: tuple[int, int, int]) -> None:
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, PICTURE.shape[1]).astype(np.uint8), (PICTURE.shape[0], 1)))
    if mode == "P":
        source = Image.fromarray(PICTURE).quantize(16)
        source.info["transparency"] = bytes(range(0, 256, 16))
        data = encoded(source, "PNG", transparency=source.info["transparency"])
    else:
        source = Image.fromarray(PICTURE).convert(mode[:-1])
        source.putalpha(alpha)
        data = encoded(source, "PNG")
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), np.float64)
    share = full[..., 3:] / 255
    decoded = decode(data, background)
    assert f"transparency over {background}" in decoded.converted
    assert largest_difference(decoded.pixels, full[..., :3] * share + np.array(background) * (1 - share)) <= 1.01


def test_grey_one_bit_and_palette() -> None:
    grey = Image.fromarray(PICTURE).convert("L")
    for source, mode in ((grey, "grey8"), (grey.convert("1"), "grey1"), (Image.fromarray(PICTURE).quantize(9), "palette")):
        decoded = decode(encoded(source, "PNG"))
        assert np.array_equal(decoded.pixels, np.asarray(source.convert("RGB")))
        assert decoded.mode.startswith(mode)
        assert decoded.converted


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_rounded_down_to_eight(bands: int, suffix: str) -> None:
    rng = np.random.default_rng(bands)
    deep = rng.integers(0, 65536, (40, 56, bands), dtype=np.uint16)
    if bands in (2, 4):
        deep[..., -1] = 65535
    kind = "grey16" if bands < 3 else "rgb16"
    data = pyvips.Image.new_from_array(deep).copy(interpretation=kind).write_to_buffer(suffix)
    decoded = decode(data)
    colour = deep[..., : 1 if bands < 3 else 3] >> 8
    assert decoded.mode == kind + ("+alpha" if bands in (2, 4) else "")
    assert "16 to 8 bits" in decoded.converted
    assert largest_difference(decoded.pixels, np.broadcast_to(colour, (40, 56, 3))) <= 1


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(photograph(40, 56, seed)) for seed in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused_or_give_their_first_frame(kind: str) -> None:
    data = animation(kind)
    with pytest.raises(RefusedError, match=r"^animated$"):
        decode(data, animated="refuse")
    decoded = decode(data, animated="first_frame")
    first = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert largest_difference(decoded.pixels, first) <= 1
    assert decoded.converted[0].startswith("first")


def test_a_scan_of_several_pages_is_no_animation() -> None:
    pages = [Image.fromarray(photograph(40, 56, seed)) for seed in range(2)]
    decoded = decode(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert np.array_equal(decoded.pixels, np.asarray(pages[0]))
    assert decoded.converted == ("first of 2 frames",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    data = encoded(photograph(80, 112), kind)
    with pytest.raises(RefusedError, match=r"^(broken: .+|not a picture file.*)"):
        decode(data[: int(len(data) * share)])


def test_damage_inside_a_png_is_refused() -> None:
    data = bytearray(encoded(PICTURE, "PNG"))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    with pytest.raises(RefusedError, match=r"^broken: "):
        decode(bytes(data))


NO_PHOTOGRAPHS = {
    "text": b"just some text\n",
    "csv": b"a,b\n1,2\n",
    "zeros": bytes(500),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>',
    "pdf": b"%PDF-1.4\n",
}


@pytest.mark.parametrize("data", NO_PHOTOGRAPHS.values(), ids=NO_PHOTOGRAPHS)
def test_what_is_no_photograph_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError, match="not a picture file"):
        decode(data)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"^empty file$"):
        decode(b"")


def test_floating_point_samples_are_refused() -> None:
    data = pyvips.Image.new_from_array(PICTURE.astype(np.float32)).write_to_buffer(".tif")
    with pytest.raises(RefusedError, match="samples are not supported"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "ICO", "TGA"])
def test_whatever_the_damage_a_file_is_decoded_or_refused(kind: str) -> None:
    data = encoded(PICTURE, kind)
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = np.frombuffer(data, np.uint8).copy()
        reach = min(len(damaged), rng.choice([40, 400, len(damaged)]))
        damaged[rng.integers(0, reach, rng.choice([1, 5, 20]))] = rng.integers(256)
        with contextlib.suppress(RefusedError):
            pixels = decode(damaged.tobytes(), max_mpx=1).pixels
            assert (pixels.ndim, pixels.dtype) == (3, np.uint8)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces gigabytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_limits_are_held_against_the_header() -> None:
    with pytest.raises(RefusedError, match=r"^too large: 60000x50000, over 120 megapixels$"):
        decode(bomb(60000, 50000), max_mpx=120)
    bmp = bytearray(encoded(PICTURE, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 50000)
    with pytest.raises(RefusedError, match=r"^too large: "):
        decode(bytes(bmp), max_mpx=120)
    with pytest.raises(RefusedError, match=r"^too small: 56x40, short side under 41$"):
        decode(encoded(PICTURE, "PNG"), min_side_px=41)
    assert decode(encoded(PICTURE, "PNG"), min_side_px=40, max_mpx=40 * 56 / 1e6).pixels.shape == (40, 56, 3)
