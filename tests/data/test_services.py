"""Sources behind services, against real servers on loopback that speak their protocols: Flickr, Google, S3, the hub's files."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from anyres.data.intake import intake
from anyres.data.sources import flickr, folder, google, huggingface
from anyres.data.sources.download import DownloadLimits, Link
from anyres.data.sources.record import Access, IntakeError

from .pictures import encoded, ingest_params, photograph

QUICK = DownloadLimits(connect_s=2, idle_s=2, attempts=3, backoff_s=0.02, max_wait_s=0.2)
KEY = "0123456789abcdef-secret"


class Service(http.server.ThreadingHTTPServer):
    """Answers with what `answer(query)` says: (status, JSON), after failing `fails` times."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ServiceHandler)
        self.asked: list[dict[str, str]] = []
        self.fails = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services"

    def answer(self, query: dict[str, str]) -> tuple[int, Any]:
        raise NotImplementedError


class ServiceHandler(http.server.BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *_: object) -> None:
        """Nothing on the test's screen."""

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append(query)
        self.server.fails -= 1
        status, answer = (503, None) if self.server.fails >= 0 else self.server.answer(query)
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class FakeFlickr(Service):
    """Photographs of one keyword, uploaded an hour apart; like Flickr, repeats itself beyond 4000 results."""

    LICENCES: ClassVar[dict[str, tuple[str, str | None]]] = {
        "0": ("All Rights Reserved", None),
        "4": ("CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/"),
        "5": ("CC BY-SA 2.0", "https://creativecommons.org/licenses/by-sa/2.0/"),
        "7": ("No known copyright restrictions", "https://www.flickr.com/commons/usage/"),
        "9": ("CC0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        "10": ("PDM", "https://creativecommons.org/publicdomain/mark/1.0/"),
    }

    def __init__(self, count: int) -> None:
        super().__init__()
        self.photos = [
            {
                "id": str(10_000 + index),
                "owner": f"{index % 7}@N00",
                "ownername": f"Ada  {index % 7}",
                "license": list(self.LICENCES)[index % len(self.LICENCES)],
                "uploaded": 1_200_000_000 + 3600 * index,
                "url_n": f"https://pictures.example/{index}_n.jpg", "width_n": 320, "height_n": 200,
                "url_k": f"https://pictures.example/{index}_k.jpg", "width_k": "2048", "height_k": "1280",
                **({"url_o": f"https://pictures.example/{index}_o.png", "width_o": 6000, "height_o": 4000} if index % 2 else {}),
            }
            for index in range(count)
        ]  # fmt: skip

    def answer(self, query: dict[str, str]) -> tuple[int, Any]:
        if query.get("api_key") != KEY:
            return 200, {"stat": "fail", "code": 100, "message": f"Invalid API Key ({query.get('api_key')})"}
        if query["method"] == "flickr.photos.licenses.getInfo":
            listed = [{"id": int(number), "name": name, "url": url} for number, (name, url) in self.LICENCES.items()]
            return 200, {"licenses": {"license": listed}, "stat": "ok"}
        wanted = query["license"].split(",")
        first, last = int(query["min_upload_date"]), int(query["max_upload_date"])
        matching = [
            p for p in self.photos if query["text"] == "nebula" and p["license"] in wanted and first <= p["uploaded"] <= last
        ]
        count, page = int(query["per_page"]), int(query["page"])
        reached = matching[:4000]
        shown = reached[(page - 1) * count : page * count] or reached[:count]
        pages = -(-len(matching) // count)
        return 200, {"photos": {"page": page, "pages": pages, "total": str(len(matching)), "photo": shown}, "stat": "ok"}


class FakeGoogle(Service):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def answer(self, query: dict[str, str]) -> tuple[int, Any]:
        if query.get("key") != KEY:
            return 400, {"error": {"code": 400, "message": f"API key not valid: {query.get('key')}"}}
        start, number = int(query["start"]), int(query["num"])
        if start + number > 101:
            return 400, {"error": {"code": 400, "message": "Request contains an invalid argument."}}
        items = [
            {
                "link": f"https://{query['q'].replace(' ', '-')}.example/{index}.jpg?size=l",
                "displayLink": "sky.example",
                "image": {"contextLink": f"https://sky.example/page{index}"},
            }
            for index in range(start, min(start + number, self.count + 1))
        ]
        return 200, {"items": items} if items else {}


def serving(service: Service) -> Iterator[Any]:
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


@pytest.fixture(scope="module")
def flickr_server() -> Iterator[FakeFlickr]:
    yield from serving(FakeFlickr(9600))


@pytest.fixture(scope="module")
def google_server() -> Iterator[FakeGoogle]:
    yield from serving(FakeGoogle(1000))


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(tmp_path / "cache", 1000.0, flickr_key=KEY, google_key=KEY, google_engine="engine:1")


def ask_flickr(server: FakeFlickr, access: Access, **changes: Any) -> list[Any]:
    values = {"queries": ["nebula"], "licences": ["by", "cc0", "pdm"], "limit": 10_000, "max_mb": 5.0} | changes
    return flickr.records(**values, access=access, progress=False, service=server.url, limits=QUICK)


def ask_google(server: FakeGoogle, access: Access, **changes: Any) -> list[Any]:
    values = {"queries": ["deep sky"], "licences": ["by", "cc0"], "limit": 1000, "max_mb": 5.0} | changes
    return google.records(**values, access=access, progress=False, service=server.url, limits=QUICK)


def test_flickr_lists_all_beyond_its_reach_with_credits_and_largest_sizes(flickr_server: FakeFlickr, access: Access) -> None:
    flickr_server.fails = 2
    records = ask_flickr(flickr_server, access)
    # Numbers 4, 9 and 10 of six: every one of 4800 arrives, more than one search shows.
    assert [record.id for record in records] == [
        f"flickr:{photo['id']}" for photo in flickr_server.photos if photo["license"] in ("4", "9", "10")
    ]
    first = records[0]
    assert first.author == "Ada 1"
    assert first.licence == "https://creativecommons.org/licenses/by/2.0/"
    assert first.page == "https://www.flickr.com/photos/1@N00/10001"
    assert first.content == Link("https://pictures.example/1_o.png", max_mb=5.0)
    assert next(record for record in records if record.id == "flickr:10004").url.endswith("4_k.jpg")
    assert KEY not in repr(records)
    assert KEY not in repr(access)


def test_flickr_stops_at_the_limit(flickr_server: FakeFlickr, access: Access) -> None:
    everything = ask_flickr(flickr_server, access)
    before = len(flickr_server.asked)
    assert ask_flickr(flickr_server, access, limit=7) == everything[:7]
    assert len(flickr_server.asked) - before < 40


@pytest.mark.parametrize(
    ("keys", "changes", "says"),
    [
        ({"flickr_key": ""}, {}, "^ANYRES_FLICKR_KEY: not set"),
        ({"flickr_key": "wrong-key"}, {}, "^Flickr refuses: Invalid API Key \\(…\\); correct ANYRES_FLICKR_KEY"),
        ({}, {"queries": ["nothing"]}, "^ingest.queries: Flickr has no pictures for nothing"),
    ],
)
def test_flickr_says_what_is_wrong(flickr_server: FakeFlickr, access: Access, keys: dict, changes: dict, says: str) -> None:
    with pytest.raises(IntakeError, match=says) as caught:
        ask_flickr(flickr_server, replace(access, **keys), **changes)
    assert "\n" not in str(caught.value)


def test_a_service_that_stays_away_is_one_line(flickr_server: FakeFlickr, access: Access) -> None:
    flickr_server.fails = 3
    with pytest.raises(IntakeError, match=r"Flickr: cannot be fetched: 503 .*\(3 attempts\); try again later"):
        ask_flickr(flickr_server, access)


def test_google_lists_a_hundred_a_query(google_server: FakeGoogle, access: Access) -> None:
    records = ask_google(google_server, access, queries=["deep sky", "deep sky", "comet"])
    assert len(records) == 200
    assert records[0].content == Link("https://deep-sky.example/1.jpg?size=l", max_mb=5.0)
    assert records[0].name == "1.jpg"
    assert records[0].page == "https://sky.example/page1"
    assert records[0].licence == "not stated; found by Google under cc_attribute|cc_publicdomain"
    assert google_server.asked[-1]["searchType"] == "image"
    assert google_server.asked[-1]["rights"] == "cc_attribute|cc_publicdomain"
    assert len(ask_google(google_server, access, limit=25)) == 25
    assert KEY not in repr(records)


@pytest.mark.parametrize(
    ("keys", "changes", "says"),
    [
        ({"google_key": ""}, {}, "^ANYRES_GOOGLE_KEY: not set"),
        ({"google_engine": ""}, {}, "^ANYRES_GOOGLE_ENGINE: not set"),
        ({"google_key": "wrong-key"}, {}, "^Google refuses: API key not valid: …"),
        ({}, {"licences": ["us-government"]}, "^ingest.licences: Google cannot filter"),
    ],
)
def test_google_says_what_is_wrong(google_server: FakeGoogle, access: Access, keys: dict, changes: dict, says: str) -> None:
    with pytest.raises(IntakeError, match=says):
        ask_google(google_server, replace(access, **keys), **changes)


def test_no_service_can_say_json_and_mean_a_page(access: Access) -> None:
    class Page(FakeGoogle):
        def answer(self, query: dict[str, str]) -> tuple[int, Any]:
            return 200, "<html>Captive portal</html>"

    for server in serving(Page(1)):
        with pytest.raises(IntakeError, match="Google: status 200, and the response is not JSON"):
            ask_google(server, access)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {f"{index}.png": encoded(photograph(40, 50 + index, index), "PNG") for index in range(5)}


def parquet(path: Path, files: dict[str, bytes]) -> None:
    rows = [{"bytes": data, "path": name} for name, data in files.items()] + [None]
    pq.write_table(pa.table({"picture": rows, "label": list(range(len(rows)))}), path)


@pytest.mark.filterwarnings("default")
def test_a_data_set_of_parquet_files_is_streamed_unchanged(tmp_path: Path, files: dict[str, bytes], access: Access) -> None:
    (tmp_path / "set").mkdir()
    parquet(tmp_path / "set" / "train-0.parquet", files)
    records = huggingface.records(str(tmp_path / "set"), "train", "picture", 100, access, progress=False)
    assert [record.id for record in records][:2] == ["train/00000000/0.png", "train/00000001/1.png"]
    assert [record.content.fetch(access).read_bytes() for record in records[:5]] == list(files.values())
    params = ingest_params(near_duplicates="keep")
    taken = intake(records, params, access, tmp_path / "out", workers=1, progress=False)
    assert [row.reason for row in taken.rows] == [""] * 5 + ["no picture in this row"]
    assert len(huggingface.records(str(tmp_path / "set"), "train", "picture", 3, access, progress=False)) == 3


@pytest.mark.filterwarnings("default")
def test_a_data_set_of_picture_files_is_read_too(tmp_path: Path, files: dict[str, bytes], access: Access) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    for name, data in files.items():
        (tmp_path / "set" / "train" / name).write_bytes(data)
    records = huggingface.records(str(tmp_path / "set"), "train", "image", 100, access, progress=False)
    assert {record.name: record.content.fetch(access).read_bytes() for record in records} == files


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("split", "column", "says"),
    [("test", "picture", "^ingest.dataset: .*split 'test'"), ("train", "image", "no 'image' in .*it has picture, label")],
)
def test_a_data_set_without_it_is_one_line(
    tmp_path: Path, files: dict[str, bytes], access: Access, split: str, column: str, says: str
) -> None:
    (tmp_path / "set").mkdir()
    parquet(tmp_path / "set" / "train-0.parquet", files)
    with pytest.raises(IntakeError, match=says) as caught:
        huggingface.records(str(tmp_path / "set"), split, column, 100, access, progress=False)
    assert "\n" not in str(caught.value)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An S3 server with an empty bucket; credentials and address in the environment, as users have them."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.config.conf.clear()
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    name = tmp_path.name.replace("_", "-")
    system.mkdir(name)
    yield f"s3://{name}"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.mark.filterwarnings("default")
def test_pictures_in_s3_are_ingested_and_fetched_once(
    bucket: str, tmp_path: Path, files: dict[str, bytes], access: Access
) -> None:
    system = fsspec.filesystem("s3")
    for name, data in {**files, ".hidden.png": b"x", "notes.txt": b"no picture", "a.zip": b"PK"}.items():
        system.pipe(f"{bucket}/deep/{name}", data)
    records = folder.records(f"{bucket}/deep", access.cache_dir, 5.0)
    assert [record.id for record in records] == [*files, "a.zip", "notes.txt"]
    taken = intake(records, ingest_params(near_duplicates="keep"), access, tmp_path / "out", workers=1, progress=False)
    assert [row.status for row in taken.rows] == ["accepted"] * 5 + ["refused"] * 2
    assert taken.rows[0].url == f"{bucket}/deep/0.png"
    assert "an archive in a store" in taken.rows[5].reason
    # Again, the store's own file unreadable: the copy serves. Changed: it is fetched anew.
    first = records[0].content.fetch(access)
    other = encoded(photograph(40, 44, 77), "PNG")
    system.pipe(f"{bucket}/deep/0.png", other)
    assert records[0].content.fetch(access) == first
    system.invalidate_cache()
    assert folder.records(f"{bucket}/deep", access.cache_dir, 5.0)[0].content.fetch(access).read_bytes() == other


@pytest.mark.filterwarnings("default")
def test_a_bucket_that_is_not_there_is_one_line(bucket: str, access: Access) -> None:
    for address in ("s3://nowhere/at-all", "nosuch://x/y"):
        with pytest.raises(IntakeError, match=r"ingest\.folder") as caught:
            folder.records(address, access.cache_dir, 5.0)
        assert "\n" not in str(caught.value)


def test_a_remote_file_keeps_its_pixels(tmp_path: Path, access: Access) -> None:
    pixels = photograph(40, 50)
    fsspec.filesystem("memory").pipe("/sky/a.png", encoded(pixels, "PNG"))
    [record] = folder.records("memory://sky", access.cache_dir, 5.0)
    assert record.id == "a.png"
    with Image.open(io.BytesIO(record.content.fetch(access).read_bytes())) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
