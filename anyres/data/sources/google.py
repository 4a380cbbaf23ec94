"""Source `google`: pictures that Google's Programmable Search finds, by its JSON API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anyres.data.refusal import RefusedError
from anyres.data.sources.download import PATIENT, Limits, Link, get_json
from anyres.data.sources.record import Access, IntakeError, Record
from anyres.progress import progress_bar

SERVICE = "https://www.googleapis.com/customsearch/v1"
KEY, ENGINE = "ANYRES_GOOGLE_KEY", "ANYRES_GOOGLE_ENGINE"
# The API serves no more of one query.
A_PAGE, REACH = 10, 100
# Its filter knows groups of licences.
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
    limits: Limits = PATIENT,
) -> list[Record]:
    """List `limit` pictures at most, 100 a query, each address once; ids are the addresses.

    Google filters by licence but does not say which one a picture has: each record states the filter.
    Raises IntakeError where key or engine are missing, or Google refuses or cannot be reached.
    """
    for value, name in ((access.google_key, KEY), (access.google_engine, ENGINE)):
        if not value:
            raise IntakeError(f"{name}: not set; see https://developers.google.com/custom-search/v1/introduction for one")
    rights = "|".join(sorted({RIGHTS[licence] for licence in licences if licence in RIGHTS}))
    if not rights:
        raise IntakeError(f"ingest.licences: Google cannot filter for {', '.join(licences)}; name one of {', '.join(RIGHTS)}")
    found: dict[str, Record] = {}
    with progress_bar("searching Google", min(limit, REACH * len(queries)), "pictures", progress) as advance:
        for query in queries:
            for item in _items(query, rights, access, service, limits):
                if len(found) < limit and item["link"] not in found:
                    found[item["link"]] = _record(item, rights, max_mb)
                    advance(1)
            if len(found) >= limit:
                break
    if not found:
        raise IntakeError(f"ingest.queries: Google has nothing for {', '.join(queries)} under {rights}; widen them")
    return list(found.values())


def _items(query: str, rights: str, access: Access, service: str, limits: Limits) -> Iterator[dict[str, Any]]:
    for start in range(1, REACH + 1, A_PAGE):
        asked = {
            "key": access.google_key,
            "cx": access.google_engine,
            "q": query,
            "searchType": "image",
            "rights": rights,
            "num": A_PAGE,
            "start": start,
        }
        try:
            status, answer = get_json(service, asked, access, limits)
        except RefusedError as error:
            raise IntakeError(f"Google: {_without(str(error), access)}; try again later") from None
        if not isinstance(answer, dict):
            raise IntakeError(f"Google: status {status} without JSON; try again later")
        if "error" in answer:
            said = _without(str(answer["error"].get("message", f"status {status}")), access)
            raise IntakeError(f"Google refuses: {said} (correct {KEY} and {ENGINE}, or wait for the next day's quota)")
        items = answer.get("items", [])
        yield from (item for item in items if item.get("link"))
        if len(items) < A_PAGE:
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


def _without(text: str, access: Access) -> str:
    return " ".join(text.replace(access.google_key, "…").split())
