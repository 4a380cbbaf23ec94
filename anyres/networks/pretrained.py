"""Published files of weights: downloaded once, verified before they are read, reported in one line if absent."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import NamedTuple

import httpx
import torch

from anyres.files import atomic_file

# A server that does not answer within this time is out of reach; a later pause of this length ends a download.
PATIENCE_S = 15.0
# What asking a server raises; the last two come of proxies that are named but cannot be used.
UNREACHED = (httpx.HTTPError, httpx.InvalidURL, OSError, ImportError, ValueError)


class AbsentWeights(ValueError):  # noqa: N818 - what there is, not what went wrong
    """Weights are neither on this machine nor within its reach; what needs them can be left out."""


class Published(NamedTuple):
    """A file of weights.

    `name` is that of the file among torch's checkpoints, `origin` says to people which one it is. Without `sha256` its
    content is not pinned: for formats that are read, not run.
    """

    name: str
    origin: str
    url: str
    sha256: str | None = None

    @property
    def path(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name


def obtained(file: Published, space: str, patience_s: float = PATIENCE_S) -> Path:
    """Return where the verified file lies; fetch it, in one attempt, where it is absent.

    Raises AbsentWeights where it is absent and cannot be fetched, and ValueError where another file lies there: one line
    each. `space` names what is left out without it.
    """
    path = file.path
    if not path.is_file():
        failure = _unanswered(file.url, patience_s) or _unfetched(file, path, patience_s)
        if failure:
            raise AbsentWeights(
                f"{path}: no such file, and it cannot be fetched ({failure}); put {file.origin} there; "
                f"metrics in {space} are left out until then"
            )
    elif file.sha256 is not None and (found := _sha256(path)) != file.sha256:
        raise ValueError(
            f"{path}: not {file.origin} (SHA-256 {found[:16]}…), so not opened; remove it or put the right one there"
        )
    return path


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _unanswered(url: str, patience_s: float) -> str:
    """Why no server answers in time, in a few words; empty where one does.

    A thread asks, because time limits of sockets hold for each address of a name and not for the look-up of the name.
    """
    failure = ["no answer in time"]

    def ask() -> None:
        try:
            with httpx.stream("GET", url, follow_redirects=True, timeout=patience_s) as answer:
                failure[0] = "" if answer.is_success else f"status {answer.status_code}"
        except UNREACHED as error:
            failure[0] = _in_few_words(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_s)
    return failure[0]


def _unfetched(file: Published, path: Path, patience_s: float) -> str:
    """Download the file to `path`, whole and verified or not at all; say why not, in a few words, or nothing."""
    digest = hashlib.sha256()
    try:
        with httpx.stream("GET", file.url, follow_redirects=True, timeout=patience_s) as answer, atomic_file(path) as out:
            for part in answer.raise_for_status().iter_bytes():
                digest.update(part)
                out.write(part)
            if file.sha256 not in (None, digest.hexdigest()):
                raise ValueError("other bytes than were published")
    except UNREACHED as error:
        return _in_few_words(error)
    return ""


def _in_few_words(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
