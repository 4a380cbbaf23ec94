"""The report: one page, nothing fetched, everything said."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from anyres.data.store import Store
from anyres.evaluation.pages import number, three_places
from anyres.evaluation.report import duration, verdict, write_report
from anyres.params import Params

from .ripples import NAME, Evaluated, Ripples

VOID = {"meta", "img", "br", "link", "input", "hr", "use", "path", "rect"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page(evaluated: Evaluated) -> Page:
    return Page(evaluated.page)


def test_nothing_is_fetched(page: Page, evaluated: Evaluated) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base")
        assert not any(name.startswith("on") for name in attributes)
        source = attributes.get("src") or attributes.get("xlink:href") or ""
        assert source.startswith(("data:image/", "#")) or not source
        if (attributes.get("href") or "#")[0] != "#":
            assert tag == "a"
            assert (attributes["href"] or "").startswith("https://example.org/")
    assert "@import" not in evaluated.page
    assert "url(http" not in evaluated.page


def test_page_is_well_formed_and_its_anchors_exist(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {value for _, a in page.tags for key in ("href", "xlink:href") if (value := a.get(key) or "").startswith("#")}
    assert {target[1:] for target in targets} <= set(ids)


def test_every_picture_is_described_and_sized(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) > 25
    for attributes in pictures:
        assert attributes["alt"]
        assert int(attributes["width"] or 0) > 0
        assert int(attributes["height"] or 0) > 0
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(figures) == 3
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)


def test_credits_name_every_photograph(page: Page, evaluated: Evaluated) -> None:
    text = "".join(page.text)
    for picture in evaluated.store.pictures:
        assert picture.name in text
    assert NAME in text
    assert text.count("R. Williams (STScI)") >= 30
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and "rel" in attributes]
    # Of 30 pages one is no web address: written out, not linked.
    assert len(links) == 29
    assert "javascript:alert(1)" in text


def test_numbers_stand_in_the_page(page: Page, evaluated: Evaluated) -> None:
    text = "".join(page.text)
    metrics = evaluated.metrics
    for key in ("patch_kid", "patch_kid_init", "patch_kid_fixed", "sweep/24/kid"):
        assert three_places(metrics[key]) in text
    assert number(metrics["sweep/40/fd"]) in text
    assert "too few photographs of this size" in text
    assert "Few samples." in text
    assert "0123abc" in text
    assert evaluated.store.hash in text
    assert metrics["protocol"]["weights_hash"] in text


def test_a_missing_stage_is_named(params: Params, store: Store, evaluated: Evaluated, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the stage evaluate first"):
        write_report(tmp_path / "report", params, Ripples(0.4), store, evaluated.folder / "train", tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.25018, "0.250"),
        (272.3, "272"),
        (2.3e-6, "2.3·10⁻⁶"),
        (-0.5, "−0.500"),
        (0.0, "0.000"),
        (12345.6, "12346"),
        (1e7, "1.0·10⁷"),
    ],
)
def test_numbers_have_three_digits(value: float, said: str) -> None:
    assert number(value) == said


def test_small_kids_are_not_minus_zero() -> None:
    assert three_places(-0.0004) == "0.000"
    assert three_places(-0.0016) == "−0.002"


def test_verdict_is_honest() -> None:
    def say(now: float) -> str:
        return verdict({"patch_kid": now, "patch_kid_init": 0.8, "patch_kid_reals": 0.001})

    assert "4.00 times nearer" in say(0.2)
    assert "has not brought" in say(0.9)
    assert "cannot be told" in say(-0.001)


def test_durations() -> None:
    assert [duration(s) for s in (12.4, 600, 7200)] == ["12 s", "10 min", "2.0 h"]
