"""Downloads from a server that misbehaves: what can be had arrives, the rest has a reason, and the run ends."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyres.data.intake import intake
from anyres.data.refusal import RefusedError
from anyres.data.sources import IntakeError, urls
from anyres.data.sources.download import DownloadLimits, Link
from anyres.data.sources.record import Access, Record

from .misbehaving import Server, misbehaving
from .pictures import encoded, ingest_params, photograph

QUICK = DownloadLimits(connect_s=2, idle_s=0.6, attempt_s=20, attempts=3, backoff_s=0.05, max_wait_s=1.0)
ARRIVE = [
    "good", "flaky", "busy", "cut-once", "cut-and-changed", "cut-without-ranges", "lost-place", "other-part", "reset-once",
    "redirect", "wrong-type", "no-type", "no-length", "packed", "packed-and-cut", "slow-once",
]  # fmt: skip
REFUSED = {
    "missing": r"cannot be fetched: 404 Not Found",
    "forbidden": r"cannot be fetched: 403 Forbidden",
    "broken": r"cannot be fetched: 500 Internal Server Error \(3 attempts\)",
    "page": r"not a picture: the server sent a page \(image/jpeg\)",
    "film": r"not a picture: the server sent video/mp4",
    "cut-always": r"cannot be fetched: .*\(3 attempts\)",
    "loop": r"cannot be fetched: .*redirect",
    "to-file": r"cannot be fetched: .*protocol",
    "drip": r"cannot be fetched: too slow: \d+ bytes in \d s \(3 attempts\)",
    "silent": r"cannot be fetched: too slow: .*\(3 attempts\)",
    "mute": r"cannot be fetched: too slow: .*\(3 attempts\)",
    "huge": r"too large: 1000000\.0 MB, over 5",
    "endless": r"too large: over 5 MB",
    "bomb": r"too large: over 5 MB",
    "empty": r"empty file",
    "reset": r"cannot be fetched: .*\(3 attempts\)",
    "garbage": r"cannot be fetched: .*\(3 attempts\)",
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {f"{seed}.png": encoded(photograph(60 + seed, 90, seed), "PNG") for seed in range(len(ARRIVE) * 3)}


@pytest.fixture
def server(files: dict[str, bytes]) -> Iterator[Server]:
    with misbehaving(files) as running:
        yield running


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(tmp_path / "cache", requests_per_second=1000.0)


def listed(path: Path, limits: DownloadLimits = QUICK, max_mb: float = 5.0) -> list[Record]:
    """The records of a list, impatient."""
    return [
        replace(record, content=replace(record.content, limits=limits)) if isinstance(record.content, Link) else record
        for record in urls.records(path, max_mb)
    ]


def test_a_crawl_of_a_misbehaving_server_ends_with_every_picture_and_every_reason(
    server: Server, files: dict[str, bytes], access: Access, tmp_path: Path
) -> None:
    good = {server.url(f"{ARRIVE[index % len(ARRIVE)]}/{name}"): data for index, (name, data) in enumerate(files.items())}
    bad = {server.url(f"{manner}/0.png"): reason for manner, reason in REFUSED.items()}
    bad |= {"http://127.0.0.1:9/x.png": r"cannot be fetched: .*\(3 attempts\)", "ftp://127.0.0.1/x.png": "not an http address"}
    bad["http://[bad/x.png"] = "cannot be fetched"
    order = [url for pair in zip(good, [*bad, *[""] * len(good)], strict=False) for url in pair if url]
    (tmp_path / "list.txt").write_text("\n".join(["# a crawl", *order, order[0]]))
    params = ingest_params(max_mb=5.0, near_duplicates="keep", shard_files=16)
    start = time.monotonic()
    catalogue = intake(listed(tmp_path / "list.txt"), params, access, tmp_path / "out", workers=2, progress=False)
    assert time.monotonic() - start < 100
    rows = {row.id: row for row in catalogue.rows}
    assert list(rows) == order
    for url, data in good.items():
        assert rows[url].status == "accepted", rows[url]
        assert rows[url].sha256 == hashlib.sha256(data).hexdigest()
    for url, reason in bad.items():
        assert rows[url].status == "refused"
        assert re.search(reason, rows[url].reason, re.IGNORECASE), rows[url]
    leftovers = [path for path in (access.cache_dir / "downloads").rglob("*") if path.is_file()]
    assert not [path for path in leftovers if path.suffix == ".lock"]

    # Once more: nothing that is there is asked for again, and the same comes out.
    asked = len(server.asked)
    again = intake(listed(tmp_path / "list.txt"), params, access, tmp_path / "again", workers=1, progress=False)
    assert again.accepted == catalogue.accepted
    assert not [path for _, path, _ in server.asked[asked:] if path.split("/")[1] in ARRIVE]


def test_a_cut_off_file_goes_on_where_it_broke(server: Server, files: dict[str, bytes], access: Access) -> None:
    data = files["3.png"]
    path = Link(server.url("cut-once/3.png"), limits=QUICK).fetch(access)
    assert path.read_bytes() == data
    assert [asked for _, _, asked in server.asked] == ["", f"bytes={len(data) // 2}-"]
    assert server.sent["/cut-once/3.png"] == len(data)


def test_a_killed_download_goes_on_where_it_broke(tmp_path: Path, access: Access) -> None:
    data = encoded(photograph(500, 700, 1), "PNG")
    with misbehaving({"a.png": data}) as server:
        link = Link(server.url("slow-once/a.png"))
        script = (
            "import sys; from pathlib import Path; from anyres.data.sources.download import Link\n"
            "from anyres.data.sources.record import Access\n"
            "Link(sys.argv[1]).fetch(Access(Path(sys.argv[2])))"
        )
        process = subprocess.Popen([sys.executable, "-c", script, link.url, str(access.cache_dir)])
        try:
            wait_until(lambda: server.sent["/slow-once/a.png"] > len(data) // 3)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        part = next((access.cache_dir / "downloads").rglob("*.part"))
        have = part.stat().st_size
        assert 0 < have < len(data)
        assert link.fetch(access).read_bytes() == data
        assert server.asked[-1][2] == f"bytes={have}-"


def test_a_sum_is_checked(server: Server, files: dict[str, bytes], access: Access) -> None:
    right = hashlib.sha256(files["1.png"]).hexdigest()
    assert Link(server.url("good/1.png"), right.upper(), limits=QUICK).fetch(access).exists()
    with pytest.raises(RefusedError, match=f"SHA-256 is {right}, expected 00"):
        Link(server.url("good/1.png"), "00" * 32, limits=QUICK).fetch(access)


def test_no_host_is_asked_faster_than_agreed(server: Server, files: dict[str, bytes], tmp_path: Path) -> None:
    access = Access(tmp_path, requests_per_second=20.0)
    fetch_all([Link(server.url(f"good/{name}"), limits=QUICK) for name in list(files)[:20]], access)
    times = sorted(at for at, _, _ in server.asked)
    assert times[-1] - times[0] >= 19 / 20 - 0.1


def test_a_host_that_asks_for_time_gets_it_from_all(server: Server, access: Access) -> None:
    def others() -> None:
        wait_until(lambda: len(server.asked) == 1)
        time.sleep(0.2)
        fetch_all([Link(server.url(f"good/{seed}.png"), limits=QUICK) for seed in range(3)], access)

    thread = threading.Thread(target=others)
    thread.start()
    Link(server.url("busy/9.png"), limits=QUICK).fetch(access)
    thread.join()
    first, *rest = sorted(at for at, _, _ in server.asked)
    assert len(rest) == 4
    assert min(rest) - first >= 0.95


def test_many_who_want_one_file_fetch_it_once(server: Server, access: Access) -> None:
    fetch_all([Link(server.url("slow-once/5.png"), limits=QUICK)] * 12, access)
    assert len(server.asked) == 1


def test_lists_are_text_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeff# mine\nhttp://x.example/a%20b.jpg?w=1  # the first\n\nhttps://x.example/c\n", "utf-8")
    first, second = urls.records(tmp_path / "a.txt", 7.0)
    assert (first.id, first.name, first.url) == ("http://x.example/a%20b.jpg?w=1", "a%20b.jpg", "http://x.example/a%20b.jpg?w=1")
    assert first.content == Link("http://x.example/a%20b.jpg?w=1", "", 7.0)
    assert second.name == "c"
    columns = {
        "ID": ["7", None],
        "URL": ["http://x.example/a", "http://x.example/b"],
        "License": ["CC0", None],
        "Page": [None, "p"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("ID,URL,License,Page\n7,http://x.example/a,CC0,\n,http://x.example/b,,p\n")
    for name in ("a.parquet", "a.csv"):
        one, two = urls.records(tmp_path / name, 7.0)
        assert (one.id, one.licence, one.page, one.url) == ("7", "CC0", "", "http://x.example/a")
        assert (two.id, two.licence, two.page) == ("http://x.example/b", "", "p")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", "# nothing\n", "has no addresses"),
        ("a.csv", "link\nhttp://x.example/a\n", "no column `url` among link"),
        ("a.parquet", "no table", "cannot be read"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path: Path, name: str, text: str | bytes | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(IntakeError, match=says) as caught:
        urls.records(tmp_path / name, 7.0)
    assert "\n" not in str(caught.value)
    assert "ingest.list" in str(caught.value)


def fetch_all(links: list[Link], access: Access) -> None:
    threads = [threading.Thread(target=link.fetch, args=[access]) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)
