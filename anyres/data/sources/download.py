"""Files over HTTP: polite, retried, continued where they broke off, checked, and kept."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import os
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

from anyres.data.refusal import RefusedError, in_few_words
from anyres.data.sources.record import Access
from anyres.files import write_atomic

T = TypeVar("T")
AGENT = "anyres (collects pictures for training)"
PASSING = {408, 425, 429, 500, 502, 503, 504}
TYPES = ("image/", "application/octet-stream", "binary/octet-stream", "text/plain")
# Beginnings of what servers send in place of a picture.
PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"{", b"[")


@dataclass(frozen=True)
class Limits:
    """How patient a download is: times in seconds, rates in bytes a second."""

    connect_s: float = 15.0
    idle_s: float = 30.0  # without a byte, or slower than `slowest` for so long
    slowest: float = 1024.0
    attempt_s: float = 600.0
    attempts: int = 5
    backoff_s: float = 1.0
    longest_wait_s: float = 120.0  # however long a server asks for


PATIENT = Limits()


class PassingError(Exception):
    """This attempt failed; another may not. `wait_s` is what the server asked for."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Link:
    """A file at an http or https address, of `max_mb` at most; `sha256`, where it is given, is checked."""

    url: str
    sha256: str = ""
    max_mb: float = 200.0
    limits: Limits = PATIENT

    def fetch(self, access: Access) -> Path:
        """Return the file in access.cache_dir/downloads, fetched where it is not there whole.

        Raises RefusedError with the reason. No failure is kept: the next run tries again.
        """
        name = hashlib.sha256(self.url.encode()).hexdigest()
        path = access.cache_dir / "downloads" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not _is_whole(path):
                persist(lambda: self._attempt(path, access), self.limits)
            found = _note(path)["sha256"]
        if self.sha256 and found != self.sha256.lower():
            path.unlink(missing_ok=True)
            raise RefusedError(f"cannot be fetched: SHA-256 is {found}, expected {self.sha256}")
        return path

    def _attempt(self, path: Path, access: Access) -> None:
        """One request; what arrives is appended to NAME.part, which another attempt or run goes on with."""
        part = path.with_suffix(".part")
        have = part.stat().st_size if part.exists() else 0
        mark = _note(part).get("mark", "")
        headers = {"Accept-Encoding": "identity"}
        if have and mark:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        with _asked(self.url, access, self.limits, headers) as answer:
            if answer.status_code == 416 and "Range" in headers:
                part.unlink()
                raise PassingError("the server lost its place")
            _check(answer)
            goes_on = answer.status_code == 206
            if goes_on and not answer.headers.get("content-range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise PassingError("the server sent another part than it was asked for")
            try:
                self._save(answer, part, have if goes_on else 0)
            except RefusedError:
                part.unlink(missing_ok=True)
                raise
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        _take_note(path, url=self.url, sha256=digest, size=part.stat().st_size)
        part.replace(path)
        _beside(part).unlink()

    def _save(self, answer: httpx.Response, part: Path, have: int) -> None:
        plain = "content-encoding" not in answer.headers
        length = answer.headers.get("content-length", "")
        expected = have + int(length) if plain and length.isdigit() else None
        if expected is not None and expected > self.max_mb * 1e6:
            raise RefusedError(f"too large: {expected / 1e6:.1f} MB, over {self.max_mb:g}")
        if not have:
            part.write_bytes(b"")  # before the new mark: a kill between leaves no bytes of another file under it
        # What was packed on its way cannot be continued by counting bytes, and a weak mark names no exact ones.
        mark = answer.headers.get("etag", "") if plain else ""
        mark = mark if not mark.startswith("W/") else ""
        _take_note(part, mark=mark or (answer.headers.get("last-modified", "") if plain else ""))
        received, start = have, time.monotonic()
        with part.open("ab") as stream:
            for chunk in answer.iter_bytes():
                if received == 0:
                    _refuse_pages(answer, chunk)
                received += len(chunk)
                stream.write(chunk)
                stream.flush()
                if received > self.max_mb * 1e6:
                    raise RefusedError(f"too large: over {self.max_mb:g} MB")
                spent = time.monotonic() - start
                slow = spent > self.limits.idle_s and received - have < self.limits.slowest * spent
                if slow or spent > self.limits.attempt_s:
                    raise PassingError(f"too slow: {received - have} bytes in {spent:.0f} s")
        if expected is not None and received != expected:
            raise PassingError(f"cut off after {received} of {expected} bytes")
        if received == 0:
            raise RefusedError("empty file")


def get_json(url: str, query: Mapping[str, Any], access: Access, limits: Limits = PATIENT) -> tuple[int, Any]:
    """Ask a service; return the status and the JSON of its answer, None where it sent something else.

    Raises RefusedError where no answer arrives after all attempts.
    """

    def attempt() -> tuple[int, Any]:
        with _asked(url, access, limits, {}, query) as answer:
            if answer.status_code in PASSING:
                _check(answer)
            try:
                return answer.status_code, json.loads(answer.read())
            except ValueError:
                return answer.status_code, None

    return persist(attempt, limits)


def persist(attempt: Callable[[], T], limits: Limits) -> T:
    """Return what `attempt` does, tried again with backoff while it raises PassingError; RefusedError in the end."""
    grows = tenacity.wait_exponential_jitter(multiplier=limits.backoff_s, max=limits.longest_wait_s, jitter=limits.backoff_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_s if isinstance(error, PassingError) else 0.0
        return max(min(asked, limits.longest_wait_s), grows(state))

    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(limits.attempts),
        wait=wait,
        retry=tenacity.retry_if_exception_type(PassingError),
        reraise=True,
    )
    try:
        return attempts(attempt)
    except PassingError as error:
        raise RefusedError(f"cannot be fetched: {error} ({limits.attempts} attempts)") from None


@contextmanager
def _asked(
    url: str, access: Access, limits: Limits, headers: Mapping[str, str], query: Mapping[str, Any] | None = None
) -> Iterator[httpx.Response]:
    """Send a request in this host's turn and yield the beginning of its answer; failures by their kind."""
    try:
        host = httpx.URL(url).host
        _turn(host, access.requests_per_second)
        timeout = httpx.Timeout(limits.idle_s, connect=limits.connect_s)
        with _client().stream("GET", url, params=query, headers=headers, timeout=timeout) as answer:
            asked = _asked_wait(answer)
            if answer.status_code in PASSING and asked:
                # All files of this host wait, not this one alone.
                _turn(host, 1 / min(asked, limits.longest_wait_s), wait=False)
            yield answer
    except httpx.TimeoutException as error:
        raise PassingError(f"too slow: {in_few_words(error)}") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects, UnicodeError) as error:
        raise RefusedError(f"cannot be fetched: {in_few_words(error)}") from None
    except (httpx.HTTPError, OSError) as error:
        raise PassingError(in_few_words(error)) from None


def _check(answer: httpx.Response) -> None:
    said = f"{answer.status_code} {answer.reason_phrase}".strip()
    if answer.status_code in PASSING:
        raise PassingError(said, _asked_wait(answer))
    if answer.status_code not in (200, 206):
        raise RefusedError(f"cannot be fetched: {said}")


def _refuse_pages(answer: httpx.Response, beginning: bytes) -> None:
    """The bytes decide: servers name pictures wrongly, and send pages as pictures."""
    kind = answer.headers.get("content-type", "").split(";")[0].strip().lower()
    if beginning.lstrip()[:20].lower().startswith(PAGES):
        raise RefusedError(f"not a picture: the server sent a page ({kind or 'no type'})")
    if kind and not kind.startswith(TYPES) and beginning[:2] not in (b"\xff\xd8", b"\x89P", b"GI", b"II", b"MM", b"RI", b"BM"):
        raise RefusedError(f"not a picture: the server sent {kind}")


def _asked_wait(answer: httpx.Response) -> float:
    """Seconds of Retry-After, given as a number or a date."""
    asked = answer.headers.get("retry-after", "").strip()
    if asked.isdigit():
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return 0.0


_turns: defaultdict[str, float] = defaultdict(float)
_turns_lock = threading.Lock()


def _turn(host: str, per_second: float, wait: bool = True) -> None:
    """Take this process's next turn at a host, after which the next one comes 1 / per_second later."""
    with _turns_lock:
        at = max(_turns[host], time.monotonic())
        _turns[host] = at + 1 / per_second
    if wait:
        time.sleep(max(0.0, at - time.monotonic()))


_client_lock = threading.Lock()


def _client() -> httpx.Client:
    """One a process, for all threads: connections are used again."""
    with _client_lock:
        return _new_client()


@cache
def _new_client() -> httpx.Client:
    client = httpx.Client(follow_redirects=True, max_redirects=10, headers={"User-Agent": AGENT})
    atexit.register(client.close)
    return client


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other threads and processes."""
    while True:
        with path.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Whoever held it before has removed it: then this is the lock of a file that is gone.
            if _same(stream.fileno(), path):
                try:
                    yield
                finally:
                    path.unlink()
                return


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_whole(path: Path) -> bool:
    return path.exists() and path.stat().st_size == _note(path).get("size")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _note(path: Path) -> dict[str, Any]:
    """What is known of a file, nothing where that is not there or damaged."""
    try:
        return json.loads(_beside(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _take_note(path: Path, **values: Any) -> None:
    write_atomic(_beside(path), json.dumps(values).encode())
