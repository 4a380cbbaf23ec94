"""The champion of a registered model: an alias that moves to a version that is no worse, and back.

Each move is recorded in a tag of its own on the registered model, so concurrent moves lose no history. Works with any MLflow
client, of a local store or of a server.
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
# The tag that declares the metric of a version, and the metric of a version without that tag.
METRIC_TAG, DEFAULT_METRIC = "metric", "patch_kid"


class ChampionUnchangedError(ValueError):
    """The champion does not move; the message is one line with the reason."""


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
    records = [(key, value) for key, value in model.tags.items() if key.startswith(MOVES)]
    return [Move(**json.loads(value)) for _, value in sorted(records)]


def promote(client: Any, name: str, candidate: str, metric: str, force: bool = False) -> str:
    """Point the alias to version `candidate` if it is no worse on `metric`, or by `force`; return one line with the reason.

    Raises ChampionUnchangedError if the candidate is worse or has no finite value of `metric`. If two versions are promoted at
    once, the better one becomes champion, provided that each call sees the other's move in time.
    """
    model = client.get_registered_model(name)
    current = _champion(model)
    if current == candidate:
        return f"{name} {candidate} is champion already"
    new = metric_value(client.get_model_version(name, candidate).tags, metric)
    old = None if current is None else metric_value(client.get_model_version(name, current).tags, metric)
    objection = None
    if new is None:
        objection = f"it has no finite {metric}"
    elif old is not None and new > old:
        objection = f"{metric} {new:.4g} is worse than {old:.4g} of version {current}"
    if objection is not None and not force:
        raise ChampionUnchangedError(f"{name} {candidate} does not become champion: {objection}")
    compared = "" if current is None else f", no worse than {'none' if old is None else f'{old:.4g}'} of version {current}"
    why = f"by force, though {objection}" if objection else f"{metric} {new:.4g}{compared}"
    _set_champion(client, name, candidate, current, "forced" if objection else "better", why)
    better = None if force or new is None else _better_promotion(client, name, moves(model), candidate, metric, new)
    if better is not None:
        why = f"{metric} is better than {new:.4g} of version {candidate}, promoted at the same time"
        _set_champion(client, name, better, candidate, "better", why)
        raise ChampionUnchangedError(
            f"{name} {candidate} does not become champion: version {better}, promoted at the same time, is better"
        )
    return f"{name} {candidate} is champion: {why}"


def rollback(client: Any, name: str, existing: Sequence[str]) -> str:
    """Point the alias to the previous champion among the `existing` versions; return one line.

    Each further call goes one champion further back. Raises ChampionUnchangedError if there was none before.
    """
    model = client.get_registered_model(name)
    current = _champion(model)
    champions = _past_champions(moves(model))
    if champions and champions[-1] == current:
        champions.pop()
    earlier = [version for version in champions if version in existing and version != current]
    if not earlier:
        raise ChampionUnchangedError(
            f"{name}: no champion is known before {'the first' if current is None else f'version {current}'}"
        )
    _set_champion(client, name, earlier[-1], current, "rollback", "the champion before")
    return f"{name} {earlier[-1]} is champion again, in place of {'none' if current is None else f'version {current}'}"


def metric_value(tags: Mapping[str, str], metric: str) -> float | None:
    """Return the number in the tag `metric` of a version, or None if there is none or it is not finite."""
    try:
        value = float(tags.get(metric, "nan"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _champion(model: Any) -> str | None:
    version = model.aliases.get(ALIAS)
    return None if version is None else str(version)


def _past_champions(history: Sequence[Move]) -> list[str]:
    """The stack of champions: oldest first, the current one last; a rollback pops it."""
    stack: list[str] = []
    for move in history:
        if move.kind == "rollback":
            while stack and stack[-1] != move.version:
                stack.pop()
            stack = stack or [move.version]
            continue
        # A move of the alias by other means leaves no tag.
        if move.before is not None and stack[-1:] != [move.before]:
            stack.append(move.before)
        stack.append(move.version)
    return stack


def _better_promotion(client: Any, name: str, known: Sequence[Move], candidate: str, metric: str, new: float) -> str | None:
    """The best version that another process promoted since the moves `known`, if it is better than `candidate`, else None."""
    since = [move.version for move in moves(client.get_registered_model(name)) if move not in known and move.kind == "better"]
    values = {}
    for version in set(since) - {candidate}:
        value = metric_value(client.get_model_version(name, version).tags, metric)
        if value is not None and value < new:
            values[version] = value
    return min(values, key=values.__getitem__) if values else None


def _set_champion(client: Any, name: str, version: str, before: str | None, kind: Any, why: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    move = Move(now, version, before, kind, why)
    # Record the move first: a move that was cut short can then be seen, and is made again.
    key = f"{MOVES}{now.replace('+00:00', 'Z')} {uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(name, key, json.dumps(asdict(move)))
    client.set_registered_model_alias(name, ALIAS, version)
