"""Source `google`: pictures from Google's Programmable Search, by its JSON API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anyres.data.refusal import RefusedError
from anyres.data.sources.download import DEFAULT_LIMITS, DownloadLimits, Link, get_json
from anyres.data.sources.record import Access, IntakeError, Record
from anyres.progress import progress_bar

SERVICE = "https://www.googleapis.com/customsearch/v1"
KEY, ENGINE = "ANYRES_GOOGLE_KEY", "ANYRES_GOOGLE_ENGINE"
# The API returns at most MAX_RESULTS results of one query.
PAGE_SIZE, MAX_RESULTS = 10, 100
# The API filters by groups of licences.
RIGHTS = {
    "cc0": "cc_publicdomain",
    "pdm": "cc_publicdomain",
    "by": "cc_attribute",
    "by-sa": "cc_sharealike",
    "by-nd": "cc_nonderived",
    "by-nc": "cc_noncommercial",
    "by-nc-sa": "cc_noncommercial",
    "by-nc-nd": "cc_noncommercial",
}


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
    """List at most `limit` pictures, 100 per query, each address once. Ids are the addresses.

    Google filters by licence but does not return the licence of a picture, so each record states the filter.
    Raises IntakeError if the key or the engine is missing, or if Google refuses the request or cannot be reached.
    """
    for value, name in ((access.google_key, KEY), (access.google_engine, ENGINE)):
        if not value:
            raise IntakeError(f"{name}: not set; see https://developers.google.com/custom-search/v1/introduction to create one")
    rights = "|".join(sorted({RIGHTS[licence] for licence in licences if licence in RIGHTS}))
    if not rights:
        raise IntakeError(f"ingest.licences: Google cannot filter for {', '.join(licences)}; name one of {', '.join(RIGHTS)}")
    records_by_address: dict[str, Record] = {}
    with progress_bar("searching Google", min(limit, MAX_RESULTS * len(queries)), "pictures", progress) as advance:
        for query in queries:
            for item in _items(query, rights, access, service, limits):
                if len(records_by_address) < limit and item["link"] not in records_by_address:
                    records_by_address[item["link"]] = _record(item, rights, max_mb)
                    advance(1)
            if len(records_by_address) >= limit:
                break
    if not records_by_address:
        raise IntakeError(
            f"ingest.queries: Google has no pictures for {', '.join(queries)} under {rights}; use other queries or more licences"
        )
    return list(records_by_address.values())


def _items(query: str, rights: str, access: Access, service: str, limits: DownloadLimits) -> Iterator[dict[str, Any]]:
    for start in range(1, MAX_RESULTS + 1, PAGE_SIZE):
        query_values = {
            "key": access.google_key,
            "cx": access.google_engine,
            "q": query,
            "searchType": "image",
            "rights": rights,
            "num": PAGE_SIZE,
            "start": start,
        }
        try:
            status, response = get_json(service, query_values, access, limits)
        except RefusedError as error:
            raise IntakeError(f"Google: {_redacted(str(error), access)}; try again later") from None
        if not isinstance(response, dict):
            raise IntakeError(f"Google: status {status}, and the response is not JSON; try again later")
        if "error" in response:
            message = _redacted(str(response["error"].get("message", f"status {status}")), access)
            raise IntakeError(f"Google refuses: {message} (correct {KEY} and {ENGINE}, or wait for the next day's quota)")
        items = response.get("items", [])
        yield from (item for item in items if item.get("link"))
        if len(items) < PAGE_SIZE:
            return


def _record(item: dict[str, Any], rights: str, max_mb: float) -> Record:
    url = item["link"]
    return Record(
        id=url,
        content=Link(url, max_mb=max_mb),
        name=url.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or url,
        url=url,
        author=item.get("displayLink", ""),
        licence=f"not stated; found by Google under {rights}",
        page=item.get("image", {}).get("contextLink", ""),
    )


def _redacted(text: str, access: Access) -> str:
    return " ".join(text.replace(access.google_key, "…").split())
