"""Source `flickr`: photographs by keyword and licence, in the largest size Flickr offers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from anyres.data.refusal import RefusedError
from anyres.data.sources.download import PATIENT, Limits, Link, get_json
from anyres.data.sources.record import Access, IntakeError, Record
from anyres.progress import progress_bar

SERVICE = "https://api.flickr.com/services/rest/"
KEY = "ANYRES_FLICKR_KEY"
# Flickr repeats itself beyond so many results of one search: a longer one is cut by date of upload.
REACH = 4000
A_PAGE = 250
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
    limits: Limits = PATIENT,
) -> list[Record]:
    """List `limit` photographs at most, each once, in order of query and upload; ids are "flickr:NUMBER".

    Raises IntakeError where there is no key, or Flickr refuses or cannot be reached. The key comes from
    ANYRES_FLICKR_KEY alone and stands in no record and no message.
    """
    if not access.flickr_key:
        raise IntakeError(f"{KEY}: not set; put a key of https://www.flickr.com/services/api/keys/ into this variable")
    asking = _Service(service, access, limits)
    names = asking.licences()
    wanted = [number for number, (slug, _) in names.items() if slug in licences]
    found: dict[str, Record] = {}
    with progress_bar("searching Flickr", limit, "pictures", progress) as advance:
        for query in queries:
            for photo in asking.photos(query, ",".join(wanted)):
                if len(found) >= limit:
                    break
                record = _record(photo, names, max_mb)
                if record is not None and record.id not in found:
                    found[record.id] = record
                    advance(1)
    if not found:
        raise IntakeError(f"ingest.queries: Flickr has nothing for {', '.join(queries)} under {', '.join(licences)}; widen them")
    return list(found.values())


class _Service:
    def __init__(self, address: str, access: Access, limits: Limits) -> None:
        self.address = address
        self.access = access
        self.limits = limits

    def licences(self) -> dict[str, tuple[str, str]]:
        """Flickr's licence numbers -> (our name, its address or words)."""
        listed = self._ask("flickr.photos.licenses.getInfo")["licenses"]["license"]
        return {str(item["id"]): (slug(item.get("url") or ""), item.get("url") or item["name"]) for item in listed}

    def photos(self, query: str, licences: str) -> Iterator[dict[str, Any]]:
        """All photographs of a query, oldest upload first."""
        windows = [(FIRST_UPLOAD, int(time.time()))]
        while windows:
            first, last = windows.pop(0)
            page = self._page(query, licences, first, last, 1)
            if int(page["total"]) > REACH and last > first:
                middle = (first + last) // 2
                windows[:0] = [(first, middle), (middle + 1, last)]
                continue
            yield from page["photo"]
            for number in range(2, int(page["pages"]) + 1):
                yield from self._page(query, licences, first, last, number)["photo"]

    def _page(self, query: str, licences: str, first: int, last: int, number: int) -> dict[str, Any]:
        return self._ask(
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
            per_page=A_PAGE,
            page=number,
        )["photos"]

    def _ask(self, method: str, **query: Any) -> dict[str, Any]:
        query |= {"method": method, "api_key": self.access.flickr_key, "format": "json", "nojsoncallback": "1"}
        try:
            status, answer = get_json(self.address, query, self.access, self.limits)
        except RefusedError as error:
            raise IntakeError(f"Flickr: {str(error).replace(self.access.flickr_key, '…')}; try again later") from None
        if not isinstance(answer, dict):
            raise IntakeError(f"Flickr: status {status} without JSON; try again later")
        if answer.get("stat") != "ok":
            said = str(answer.get("message", f"status {status}")).replace(self.access.flickr_key, "…")
            raise IntakeError(f"Flickr refuses: {said}" + (f"; correct {KEY}" if answer.get("code") == 100 else ""))
        return answer


def slug(address: str) -> str:
    """Our name for the licence at an address, as params.ingest.licences spells it."""
    if "publicdomain/zero" in address:
        return "cc0"
    if "publicdomain/mark" in address:
        return "pdm"
    if found := re.search(r"creativecommons\.org/licenses/([a-z-]+)/", address):
        return found[1]
    if "flickr.com/commons/usage" in address:
        return "no-known-copyright"
    return "us-government" if "usa.gov" in address else "all-rights-reserved"


def _record(photo: dict[str, Any], names: dict[str, tuple[str, str]], max_mb: float) -> Record | None:
    """None where the owner lets no size be downloaded."""
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
