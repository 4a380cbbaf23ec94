"""Downloads over HTTP: rate-limited, retried, resumed, checked and cached."""

from __future__ import annotations

import atexit
import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import tenacity
from filelock import FileLock

from anyres.data.refusal import RefusedError, one_line
from anyres.data.sources.record import Access
from anyres.files import write_atomic

T = TypeVar("T")
USER_AGENT = "anyres (collects pictures for training)"
RETRYABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}
PICTURE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream", "text/plain")
# The first bytes of pages that servers send instead of a picture.
PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"{", b"[")


@dataclass(frozen=True)
class DownloadLimits:
    """Timeouts in seconds, the minimum rate in bytes per second, and the retries of a download."""

    connect_s: float = 15.0
    idle_s: float = 30.0  # without a byte, or slower than `min_rate`, for this long
    min_rate: float = 1024.0
    attempt_s: float = 600.0
    attempts: int = 5
    backoff_s: float = 1.0
    max_wait_s: float = 120.0  # even if the server asks for more


DEFAULT_LIMITS = DownloadLimits()


class RetryableError(Exception):
    """This attempt failed; a retry may succeed. `wait_s` is the time that the server asked to wait."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Link:
    """A file at an http or https address, of at most `max_mb`. If `sha256` is given, it is checked."""

    url: str
    sha256: str = ""
    max_mb: float = 200.0
    limits: DownloadLimits = DEFAULT_LIMITS

    def fetch(self, access: Access) -> Path:
        """Return the file in access.cache_dir/downloads; download it if it is missing or incomplete.

        Raises RefusedError with the reason. Failures are not cached: the next run tries again.
        """
        name = hashlib.sha256(self.url.encode()).hexdigest()
        path = access.cache_dir / "downloads" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path.with_suffix(".lock")):
            if not _is_complete(path):
                retry(lambda: self._attempt(path, access), self.limits)
            digest = _read_metadata(path)["sha256"]
        if self.sha256 and digest != self.sha256.lower():
            path.unlink(missing_ok=True)
            raise RefusedError(f"cannot be fetched: SHA-256 is {digest}, expected {self.sha256}")
        return path

    def _attempt(self, path: Path, access: Access) -> None:
        """Send one request and append its content to NAME.part. Another attempt or run can resume from this file."""
        part = path.with_suffix(".part")
        resume_at = part.stat().st_size if part.exists() else 0
        mark = _read_metadata(part).get("mark", "")
        headers = {"Accept-Encoding": "identity"}
        if resume_at and mark:
            headers |= {"Range": f"bytes={resume_at}-", "If-Range": mark}
        with _request(self.url, access, self.limits, headers) as response:
            if response.status_code == 416 and "Range" in headers:
                part.unlink()
                raise RetryableError("the server cannot resume at this byte")
            _check(response)
            is_resumed = response.status_code == 206
            if is_resumed and not response.headers.get("content-range", "").startswith(f"bytes {resume_at}-"):
                part.unlink(missing_ok=True)
                raise RetryableError("the server sent another range than the requested one")
            try:
                self._save(response, part, resume_at if is_resumed else 0)
            except RefusedError:
                part.unlink(missing_ok=True)
                raise
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        _write_metadata(path, url=self.url, sha256=digest, size=part.stat().st_size)
        part.replace(path)
        _metadata_path(part).unlink()

    def _save(self, response: httpx.Response, part: Path, resume_at: int) -> None:
        is_plain = "content-encoding" not in response.headers
        length = response.headers.get("content-length", "")
        expected = resume_at + int(length) if is_plain and length.isdigit() else None
        if expected is not None and expected > self.max_mb * 1e6:
            raise RefusedError(f"too large: {expected / 1e6:.1f} MB, over {self.max_mb:g}")
        if not resume_at:
            part.write_bytes(b"")  # before the new mark, so that a kill in between leaves no bytes of another version
        # A compressed response cannot be resumed by byte offset, and a weak ETag does not identify exact bytes.
        mark = response.headers.get("etag", "") if is_plain else ""
        mark = mark if not mark.startswith("W/") else ""
        _write_metadata(part, mark=mark or (response.headers.get("last-modified", "") if is_plain else ""))
        received, start = resume_at, time.monotonic()
        with part.open("ab") as stream:
            for chunk in response.iter_bytes():
                if received == 0:
                    _refuse_pages(response, chunk)
                received += len(chunk)
                stream.write(chunk)
                stream.flush()
                if received > self.max_mb * 1e6:
                    raise RefusedError(f"too large: over {self.max_mb:g} MB")
                elapsed_s = time.monotonic() - start
                is_slow = elapsed_s > self.limits.idle_s and received - resume_at < self.limits.min_rate * elapsed_s
                if is_slow or elapsed_s > self.limits.attempt_s:
                    raise RetryableError(f"too slow: {received - resume_at} bytes in {elapsed_s:.0f} s")
        if expected is not None and received != expected:
            raise RetryableError(f"cut off after {received} of {expected} bytes")
        if received == 0:
            raise RefusedError("empty file")


def get_json(url: str, query: Mapping[str, Any], access: Access, limits: DownloadLimits = DEFAULT_LIMITS) -> tuple[int, Any]:
    """Query a service. Return the status and the JSON of its response, or None if the response is not JSON.

    Raises RefusedError if all attempts fail.
    """

    def attempt() -> tuple[int, Any]:
        with _request(url, access, limits, {}, query) as response:
            if response.status_code in RETRYABLE_STATUS:
                _check(response)
            try:
                return response.status_code, json.loads(response.read())
            except ValueError:
                return response.status_code, None

    return retry(attempt, limits)


def retry(attempt: Callable[[], T], limits: DownloadLimits) -> T:
    """Call `attempt` again, with backoff, while it raises RetryableError. Raise RefusedError after the last attempt."""
    backoff = tenacity.wait_exponential_jitter(multiplier=limits.backoff_s, max=limits.max_wait_s, jitter=limits.backoff_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        requested_s = error.wait_s if isinstance(error, RetryableError) else 0.0
        return max(min(requested_s, limits.max_wait_s), backoff(state))

    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(limits.attempts),
        wait=wait,
        retry=tenacity.retry_if_exception_type(RetryableError),
        reraise=True,
    )
    try:
        return attempts(attempt)
    except RetryableError as error:
        raise RefusedError(f"cannot be fetched: {error} ({limits.attempts} attempts)") from None


@contextmanager
def _request(
    url: str, access: Access, limits: DownloadLimits, headers: Mapping[str, str], query: Mapping[str, Any] | None = None
) -> Iterator[httpx.Response]:
    """Send a request at the rate of this host and yield the streamed response. Failures are retryable or refused."""
    try:
        host = httpx.URL(url).host
        _wait_for_slot(host, access.requests_per_second)
        timeout = httpx.Timeout(limits.idle_s, connect=limits.connect_s)
        with _client().stream("GET", url, params=query, headers=headers, timeout=timeout) as response:
            retry_after_s = _retry_after_s(response)
            if response.status_code in RETRYABLE_STATUS and retry_after_s:
                # All requests to this host wait, not only this one.
                _reserve_slot(host, 1 / min(retry_after_s, limits.max_wait_s))
            yield response
    except httpx.TimeoutException as error:
        raise RetryableError(f"too slow: {one_line(error)}") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects, UnicodeError) as error:
        raise RefusedError(f"cannot be fetched: {one_line(error)}") from None
    except (httpx.HTTPError, OSError) as error:
        raise RetryableError(one_line(error)) from None


def _check(response: httpx.Response) -> None:
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code in RETRYABLE_STATUS:
        raise RetryableError(status, _retry_after_s(response))
    if response.status_code not in (200, 206):
        raise RefusedError(f"cannot be fetched: {status}")


def _refuse_pages(response: httpx.Response, beginning: bytes) -> None:
    """Refuse a response that is not a picture. The bytes decide, because the content type is often wrong."""
    content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if beginning.lstrip()[:20].lower().startswith(PAGE_STARTS):
        raise RefusedError(f"not a picture: the server sent a page ({content_type or 'no type'})")
    if (
        content_type
        and not content_type.startswith(PICTURE_TYPES)
        and beginning[:2] not in (b"\xff\xd8", b"\x89P", b"GI", b"II", b"MM", b"RI", b"BM")
    ):
        raise RefusedError(f"not a picture: the server sent {content_type}")


def _retry_after_s(response: httpx.Response) -> float:
    """Return Retry-After in seconds. The header is a number or a date."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


_next_slots: defaultdict[str, float] = defaultdict(float)
_next_slots_lock = threading.Lock()


def _reserve_slot(host: str, per_second: float) -> float:
    """Reserve the next slot for a request to a host, and return its time. The following slot is 1 / per_second later."""
    with _next_slots_lock:
        slot = max(_next_slots[host], time.monotonic())
        _next_slots[host] = slot + 1 / per_second
    return slot


def _wait_for_slot(host: str, per_second: float) -> None:
    time.sleep(max(0.0, _reserve_slot(host, per_second) - time.monotonic()))


_client_lock = threading.Lock()


def _client() -> httpx.Client:
    """Return the client of this process. All threads share it, so that connections are reused."""
    with _client_lock:
        return _new_client()


@cache
def _new_client() -> httpx.Client:
    client = httpx.Client(follow_redirects=True, max_redirects=10, headers={"User-Agent": USER_AGENT})
    atexit.register(client.close)
    return client


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other threads and processes. Remove it at the end."""
    with FileLock(path, poll_interval=0.01):
        try:
            yield
        finally:
            # Removed while it is locked: FileLock opens a new file if the one it waited for was removed.
            path.unlink()


def _is_complete(path: Path) -> bool:
    return path.exists() and path.stat().st_size == _read_metadata(path).get("size")


def _metadata_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a download, or an empty dict if it is missing or damaged."""
    try:
        return json.loads(_metadata_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_metadata(path: Path, **values: Any) -> None:
    write_atomic(_metadata_path(path), json.dumps(values).encode())
