"""Identities: what changes a digest, a code version and the run of a training, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyres import identity
from anyres.identity import closure, code_hashes, digest, find_run, module_file
from anyres.params import Train


def test_a_closure_follows_imports_of_modules_packages_and_functions() -> None:
    modules = closure("anyres.training.run")
    # By name, through a package's __init__, and inside a function.
    assert {"anyres.training.run", "anyres.data.store", "anyres.networks.continuum", "anyres.plane.fields"} <= set(modules)
    assert not any(name.startswith(("anyres.viewer", "anyres.cli", "anyres.export")) for name in modules)
    assert "anyres.data.sources.flickr" in closure("pipelines.ingest")
    # One function of a module does not bring what another one imports.
    assert "anyres.evaluation.evaluate" in closure("anyres.cli.stages:evaluate")
    assert "anyres.evaluation.evaluate" not in closure("anyres.cli.stages:train")


def test_what_only_a_type_checker_imports_does_not_count() -> None:
    assert "TYPE_CHECKING" in module_file("anyres").read_text()
    assert "anyres.export.bundle" not in closure("anyres.plane.window")


def test_a_root_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"anyres\.nothing: no such module"):
        closure("anyres.nothing")
    with pytest.raises(ValueError, match=r"anyres\.cli\.stages: no function nothing"):
        closure("anyres.cli.stages:nothing")


def hash_of(source: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """The hash of a module with this source."""
    (folder / "anyres").mkdir(exist_ok=True)
    (folder / "anyres/probe.py").write_text(source)
    (folder / "anyres/__init__.py").touch()
    monkeypatch.setattr(identity, "ROOT", folder)
    for cached in (identity._tree, identity._tree_hash, identity._imports):
        cached.cache_clear()
    try:
        return code_hashes("anyres.probe")["anyres/probe.py"]
    finally:
        for cached in (identity._tree, identity._tree_hash, identity._imports):
            cached.cache_clear()


def test_words_do_not_change_the_hash_of_code_but_values_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = hash_of("def f(x):\n    return 5 * x\n", monkeypatch, tmp_path)
    words = '"""A module."""\n\n\ndef f(x):\n    """Five times x."""\n    # Five is enough.\n    return (5 * x)\n'
    other_words = words.replace("A module", "Another module").replace("Five times x", "x, five times").replace("enough", "plenty")
    assert hash_of(words, monkeypatch, tmp_path) == hash_of(other_words, monkeypatch, tmp_path) == plain
    assert hash_of("def f(x):\n    return 6 * x\n", monkeypatch, tmp_path) != plain
    assert hash_of("def f(y):\n    return 5 * y\n", monkeypatch, tmp_path) != plain


def test_digests_tell_values_apart() -> None:
    assert digest(1, 2) == digest(1, 2)
    assert len({digest(1, 2), digest((1, 2)), digest(12), digest("1", "2"), digest({1: 2})}) == 5


def test_a_run_is_found_by_settings_and_code(tiny: Train, tmp_path: Path) -> None:
    own = find_run(tmp_path, tiny, "d" * 64)
    assert own == find_run(tmp_path, tiny, "d" * 64)
    assert own.path != find_run(tmp_path, tiny, "e" * 64).path
    assert own.path != find_run(tmp_path, tiny.model_copy(update={"seed": 2}), "d" * 64).path
    assert own.message == ""
    assert any(file.startswith("anyres/networks/") for file in own.fingerprint.code)
    assert "anyres/progress.py" not in own.fingerprint.code
