"""Source `flickr`: photographs by keyword and licence, in the largest size that Flickr offers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from anyres.data.refusal import RefusedError
from anyres.data.sources.download import DEFAULT_LIMITS, DownloadLimits, Link, get_json
from anyres.data.sources.record import Access, IntakeError, Record
from anyres.progress import progress_bar

SERVICE = "https://api.flickr.com/services/rest/"
KEY = "ANYRES_FLICKR_KEY"
# Flickr repeats results after this many. A search with more is split by date of upload.
MAX_RESULTS = 4000
PAGE_SIZE = 250
FIRST_UPLOAD = 1_072_915_200  # 2004-01-01, before Flickr
SIZES = ("o", "6k", "5k", "4k", "3k", "k", "h", "l", "c", "z", "n")


def records(
    queries: Sequence[str],
    licences: Sequence[str],
    limit: int,
    max_mb: float,
    access: Access,
    progress: bool = True,
    service: str = SERVICE,
    limits: DownloadLimits = DEFAULT_LIMITS,
) -> list[Record]:
    """List at most `limit` photographs, each once, in order of query and upload. Ids are "flickr:NUMBER".

    Raises IntakeError if there is no key, or if Flickr refuses the request or cannot be reached. The key comes only from
    ANYRES_FLICKR_KEY. No record and no message contains it.
    """
    if not access.flickr_key:
        raise IntakeError(f"{KEY}: not set; set this variable to a key from https://www.flickr.com/services/api/keys/")
    client = _FlickrClient(service, access, limits)
    names = client.licences()
    allowed = [number for number, (name, _) in names.items() if name in licences]
    records_by_id: dict[str, Record] = {}
    with progress_bar("searching Flickr", limit, "pictures", progress) as advance:
        for query in queries:
            for photo in client.photos(query, ",".join(allowed)):
                if len(records_by_id) >= limit:
                    break
                record = _record(photo, names, max_mb)
                if record is not None and record.id not in records_by_id:
                    records_by_id[record.id] = record
                    advance(1)
    if not records_by_id:
        terms = f"{', '.join(queries)} under {', '.join(licences)}"
        raise IntakeError(f"ingest.queries: Flickr has no pictures for {terms}; use other queries or more licences")
    return list(records_by_id.values())


class _FlickrClient:
    def __init__(self, address: str, access: Access, limits: DownloadLimits) -> None:
        self.address = address
        self.access = access
        self.limits = limits

    def licences(self) -> dict[str, tuple[str, str]]:
        """Return {Flickr's number of a licence: (our name, its address or Flickr's name)}."""
        licences = self._call("flickr.photos.licenses.getInfo")["licenses"]["license"]
        return {str(item["id"]): (licence_name(item.get("url") or ""), item.get("url") or item["name"]) for item in licences}

    def photos(self, query: str, licences: str) -> Iterator[dict[str, Any]]:
        """Yield all photographs of a query, in order of upload."""
        windows = [(FIRST_UPLOAD, int(time.time()))]
        while windows:
            first, last = windows.pop(0)
            page = self._page(query, licences, first, last, 1)
            if int(page["total"]) > MAX_RESULTS and last > first:
                middle = (first + last) // 2
                windows[:0] = [(first, middle), (middle + 1, last)]
                continue
            yield from page["photo"]
            for number in range(2, int(page["pages"]) + 1):
                yield from self._page(query, licences, first, last, number)["photo"]

    def _page(self, query: str, licences: str, first: int, last: int, number: int) -> dict[str, Any]:
        return self._call(
            "flickr.photos.search",
            text=query,
            license=licences,
            media="photos",
            content_types="0",
            safe_search="1",
            sort="date-posted-asc",
            min_upload_date=first,
            max_upload_date=last,
            extras=",".join(["license", "owner_name", *(f"url_{size}" for size in SIZES)]),
            per_page=PAGE_SIZE,
            page=number,
        )["photos"]

    def _call(self, method: str, **query: Any) -> dict[str, Any]:
        query |= {"method": method, "api_key": self.access.flickr_key, "format": "json", "nojsoncallback": "1"}
        try:
            status, response = get_json(self.address, query, self.access, self.limits)
        except RefusedError as error:
            raise IntakeError(f"Flickr: {str(error).replace(self.access.flickr_key, '…')}; try again later") from None
        if not isinstance(response, dict):
            raise IntakeError(f"Flickr: status {status}, and the response is not JSON; try again later")
        if response.get("stat") != "ok":
            message = str(response.get("message", f"status {status}")).replace(self.access.flickr_key, "…")
            raise IntakeError(f"Flickr refuses: {message}" + (f"; correct {KEY}" if response.get("code") == 100 else ""))
        return response


def licence_name(address: str) -> str:
    """Return our name for the licence at an address, as in params.ingest.licences."""
    if "publicdomain/zero" in address:
        return "cc0"
    if "publicdomain/mark" in address:
        return "pdm"
    if match := re.search(r"creativecommons\.org/licenses/([a-z-]+)/", address):
        return match[1]
    if "flickr.com/commons/usage" in address:
        return "no-known-copyright"
    return "us-government" if "usa.gov" in address else "all-rights-reserved"


def _record(photo: dict[str, Any], names: dict[str, tuple[str, str]], max_mb: float) -> Record | None:
    """Return None if the owner does not allow downloads."""
    sizes = [size for size in SIZES if photo.get(f"url_{size}")]
    if not sizes:
        return None
    largest = max(sizes, key=lambda size: int(photo.get(f"width_{size}") or 0) * int(photo.get(f"height_{size}") or 0))
    url, number = photo[f"url_{largest}"], str(photo["id"])
    return Record(
        id=f"flickr:{number}",
        content=Link(url, max_mb=max_mb),
        name=url.rsplit("/", 1)[-1],
        url=url,
        author=" ".join(str(photo.get("ownername") or photo.get("owner", "")).split()),
        licence=names.get(str(photo.get("license")), ("", ""))[1],
        page=f"https://www.flickr.com/photos/{photo['owner']}/{number}",
    )
