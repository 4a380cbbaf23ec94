"""The champion of a registered model: an alias that moves for a reason, and the way back.

Every move stands in a tag of its own on the registered model: whoever moves the alias at the same moment loses nothing of its
history. Works on any MLflow client, a local store's or a server's.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

ALIAS = "champion"
MOVES = "champion/"
# By which one version was declared to be measured, and what stands in for it.
METRIC_TAG, DEFAULT_METRIC = "metric", "patch_kid"


class StaysError(ValueError):
    """The champion does not move; the message is one line that says why."""


@dataclass(frozen=True)
class Move:
    """The alias went from version `before` (None: there was no champion) to `version` at `at`, UTC in ISO 8601, for `why`."""

    at: str
    version: str
    before: str | None
    kind: Literal["better", "forced", "rollback"]
    why: str


def moves(model: Any) -> list[Move]:
    """The history of a registered model's champion, oldest first."""
    found = [(key, value) for key, value in model.tags.items() if key.startswith(MOVES)]
    return [Move(**json.loads(value)) for _, value in sorted(found)]


def promote(client: Any, name: str, candidate: str, metric: str, force: bool = False) -> str:
    """Point the alias to version `candidate` if it is no worse on `metric`, or by `force`; return a line that says what and why.

    Raises StaysError where it is worse or has no such number. Of two that are promoted at once the better one stays, as far as
    each sees the other's move in time.
    """
    model = client.get_registered_model(name)
    present = _champion(model)
    if present == candidate:
        return f"{name} {candidate} is champion already"
    new = recorded(client.get_model_version(name, candidate).tags, metric)
    old = None if present is None else recorded(client.get_model_version(name, present).tags, metric)
    against = None
    if new is None:
        against = f"it has no finite {metric}"
    elif old is not None and new > old:
        against = f"{metric} {new:.4g} is worse than {old:.4g} of version {present}"
    if against is not None and not force:
        raise StaysError(f"{name} {candidate} does not become champion: {against}")
    compared = "" if present is None else f", no worse than {'none' if old is None else f'{old:.4g}'} of version {present}"
    why = f"by force, though {against}" if against else f"{metric} {new:.4g}{compared}"
    _move(client, name, candidate, present, "forced" if against else "better", why)
    rival = None if force or new is None else _rival(client, name, moves(model), candidate, metric, new)
    if rival is not None:
        why = f"{metric} is better than {new:.4g} of version {candidate}, promoted at the same time"
        _move(client, name, rival, candidate, "better", why)
        raise StaysError(f"{name} {candidate} does not become champion: version {rival}, promoted at the same time, is better")
    return f"{name} {candidate} is champion: {why}"


def rollback(client: Any, name: str, existing: Sequence[str]) -> str:
    """Point the alias to the champion before the present one, of those versions that exist; return a line that says so.

    Again and again it goes further back. Raises StaysError where there was none before.
    """
    model = client.get_registered_model(name)
    present = _champion(model)
    line = _line(moves(model))
    if line and line[-1] == present:
        line.pop()
    earlier = [version for version in line if version in existing and version != present]
    if not earlier:
        raise StaysError(f"{name}: no champion is known before {'the first' if present is None else f'version {present}'}")
    _move(client, name, earlier[-1], present, "rollback", "the champion before")
    return f"{name} {earlier[-1]} is champion again, in place of {'none' if present is None else f'version {present}'}"


def recorded(tags: Mapping[str, str], metric: str) -> float | None:
    """The number of a version's tag, None where there is none or it is not finite."""
    try:
        value = float(tags.get(metric, "nan"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _champion(model: Any) -> str | None:
    version = model.aliases.get(ALIAS)
    return None if version is None else str(version)


def _line(history: Sequence[Move]) -> list[str]:
    """The champions of which each may return once those behind it have gone, oldest first, the present one last."""
    line: list[str] = []
    for move in history:
        if move.kind == "rollback":
            while line and line[-1] != move.version:
                line.pop()
            line = line or [move.version]
            continue
        # Whoever moves the alias by other means leaves no tag.
        if move.before is not None and line[-1:] != [move.before]:
            line.append(move.before)
        line.append(move.version)
    return line


def _rival(client: Any, name: str, known: Sequence[Move], candidate: str, metric: str, new: float) -> str | None:
    """A version that was promoted since `known`, by someone else, and is better than `candidate`; None where there is none."""
    since = [move.version for move in moves(client.get_registered_model(name)) if move not in known and move.kind == "better"]
    found = {}
    for version in set(since) - {candidate}:
        value = recorded(client.get_model_version(name, version).tags, metric)
        if value is not None and value < new:
            found[version] = value
    return min(found, key=found.__getitem__) if found else None


def _move(client: Any, name: str, version: str, before: str | None, kind: Any, why: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    move = Move(now, version, before, kind, why)
    # History first: a move that was cut short can be seen, and is made again.
    key = f"{MOVES}{now.replace('+00:00', 'Z')} {uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(name, key, json.dumps(asdict(move)))
    client.set_registered_model_alias(name, ALIAS, version)
