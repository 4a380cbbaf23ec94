"""Identities: digests of values, versions of code, and the fingerprint of a training.

Nothing here imports torch, so that a process that only orchestrates can name what it runs.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from anyres.params import Train
from anyres.version import __version__

# The folder that holds the packages anyres and pipelines.
ROOT = Path(__file__).resolve().parents[1]
# What decides the weights of a training, with all that these modules import.
TRAINING = ("anyres.training.run", "anyres.evaluation.monitor")
# Modules that decide no weight: how files are written, how progress looks, and this one, whose output says when it changes.
NEUTRAL = ("anyres", "anyres.files", "anyres.identity", "anyres.progress", "anyres.version")


# ---- digests of values


def digest(*values: Any) -> str:
    """Return the hexadecimal SHA-256 of values of any kind: equal values give equal digests in every process.

    An object that has neither fields nor a meaningful `repr` enters with its address, so it never equals one of another process.
    """
    hasher = hashlib.sha256()
    _feed(hasher, values, ())
    return hasher.hexdigest()


def tensors_of(generator: Any) -> str:
    """Return the SHA-256 of a generator's class, geometry, and the names and values of its tensors."""
    kind = type(generator)
    return digest(f"{kind.__module__}.{kind.__qualname__}", generator.geometry, dict(generator.state_dict()))


def _feed(hasher: Any, value: Any, ancestors: tuple[int, ...]) -> None:
    """Feed kind, number of parts, and parts of a value, so that neighbours cannot run into each other."""
    if id(value) in ancestors:
        hasher.update(b"again;")
        return
    kind, parts = _parts(value)
    hasher.update(f"{kind} {len(parts)};".encode())
    if isinstance(parts, bytes):
        hasher.update(parts)
        return
    for part in parts:
        _feed(hasher, part, (*ancestors, id(value)))


def _parts(value: Any) -> tuple[str, bytes | Sequence[Any]]:
    """Return the kind of a value and what it is made of: bytes, or further values."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, bytes | bytearray):
        return kind, bytes(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return f"tensor {value.dtype} {tuple(value.shape)}", flat.numpy().tobytes()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.dtype} {value.shape}", np.ascontiguousarray(value).tobytes()
    if isinstance(value, CodeType):
        return kind, (value.co_code, value.co_consts, value.co_names)
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return kind, (value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, cells)
    if isinstance(value, MethodType):
        return kind, (value.__func__, value.__self__)
    if isinstance(value, functools.partial):
        return kind, (value.func, value.args, value.keywords)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return kind, [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return kind, [part for pair in value.items() for part in pair]
    if isinstance(value, Set):
        return kind, sorted(digest(part) for part in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return kind, list(value)
    if hasattr(value, "__dict__") and not isinstance(value, type | ModuleType):
        return kind, list(vars(value).items())
    return kind, repr(value).encode()


# ---- code


def closure(*roots: str) -> tuple[str, ...]:
    """Return the names of the modules of anyres that `roots` import, directly or through others, and the roots themselves.

    A root is a module, "anyres.training.run", or one function of it, "anyres.cli.stages:train": then the imports of that
    function alone count. Imports inside functions count; those under `if TYPE_CHECKING` do not. Raises ValueError for a root
    that does not exist.
    """
    # Whether the imports inside functions of a module count; those of a package that only stands above a module do not.
    inside: dict[str, bool] = {}
    files: set[str] = set()
    waiting = [(root, True) for root in roots]
    while waiting:
        root, deep = waiting.pop()
        if root in inside and (inside[root] or not deep):
            continue
        inside[root] = deep
        module, _, function = root.partition(":")
        files.add(module)
        # Python imports the packages above a module first; a function of a command reads none of them.
        waiting += [] if function else [(parent, False) for parent in _parents(module)]
        waiting += _imports(module, function, deep)
    return tuple(sorted(files))


def module_file(module: str) -> Path:
    """Return the file of a module of anyres or pipelines. Raises ValueError where there is none."""
    path = ROOT / module.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    raise ValueError(f"{module}: no such module below {ROOT.name}")


def code_hashes(*roots: str) -> dict[str, str]:
    """Return, for each file in the closure of `roots`, the SHA-256 of its syntax tree without docstrings and comments.

    The keys are paths such as "anyres/plane/window.py". Better words leave the hashes as they are; a changed constant does not.
    The tree is that of the running Python: another minor version of Python may give other hashes.
    """
    return {module_file(name).relative_to(ROOT).as_posix(): _tree_hash(name) for name in closure(*roots)}


@functools.cache
def code_version(*roots: str) -> str:
    """Return the SHA-256 of the code in the closure of `roots`, of the version of anyres and, where it is loaded, of torch.

    It keys what is cached or resumed: tiles, features, unfinished pictures.
    """
    torch = sys.modules.get("torch")
    return digest(__version__, None if torch is None else torch.__version__, code_hashes(*roots))


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(module_file(module).read_text(encoding="utf-8"))


@functools.cache
def _tree_hash(module: str) -> str:
    tree = ast.parse(module_file(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _starts_with_text(node.body):
            # A body must not be empty.
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _starts_with_text(body: Sequence[ast.stmt]) -> bool:
    first = body[0] if body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _parents(module: str) -> list[str]:
    """The packages that Python imports before a module."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


@functools.cache
def _imports(module: str, function: str, deep: bool) -> tuple[tuple[str, bool], ...]:
    """The modules of anyres that a module, or one function of it, imports, and whether imports inside their functions count."""
    tree: ast.AST = _tree(module)
    if function:
        bodies = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
        if not bodies:
            raise ValueError(f"{module}: no function {function} in it")
        tree = bodies[0]
    names: set[tuple[str, bool]] = set()
    for node in _statements(tree, deep):
        if isinstance(node, ast.Import):
            names |= {(alias.name, True) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from anyres.plane import fields` imports a module, `from anyres.plane.window import Window` a name of one.
            modules = {alias.name for alias in node.names if _is_module(f"{node.module}.{alias.name}")}
            names |= {(f"{node.module}.{name}", True) for name in modules}
            names.add((node.module, len(modules) < len(node.names)))
    return tuple(sorted(pair for pair in names if pair[0].partition(".")[0] == "anyres" and _is_module(pair[0])))


def _statements(node: ast.AST, deep: bool) -> Iterator[ast.AST]:
    """All statements below a node, without those that only a type checker reads, nor, unless `deep`, those in functions."""
    waiting = [node]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            typing = isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not deep
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case) and not typing and not later:
                yield child
                waiting.append(child)


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


# ---- trainings


@dataclass(frozen=True)
class Fingerprint:
    """What determines the weights of a training: its settings (params, data, teacher), and the code by file."""

    settings: str
    code: Mapping[str, str]

    @classmethod
    def of(cls, params: Train, data_hash: str) -> Fingerprint:
        """The fingerprint of training with these params on this data by the code of this checkout."""
        values: dict[str, Any] = {"train": params.model_dump(mode="json"), "data": data_hash}
        if params.stages.teacher:
            weights = Path(params.stages.teacher) / "generator.safetensors"
            values["teacher"] = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
        neutral = {module_file(name).relative_to(ROOT).as_posix() for name in NEUTRAL}
        code = {file: value for file, value in code_hashes(*TRAINING).items() if file not in neutral}
        return cls(digest(values)[:16], code)

    @property
    def code_hash(self) -> str:
        """One hash of all the code, 16 hexadecimal digits."""
        return digest(sorted(self.code.items()))[:16]

    @property
    def name(self) -> str:
        """What the run is called: 16 hexadecimal digits of settings and code."""
        return digest(self.settings, self.code_hash)[:16]

    def changed_files(self, code: Mapping[str, str]) -> list[str]:
        """The files that differ from other code, or stand in one of both alone."""
        return sorted(file for file in {*self.code, *code} if self.code.get(file) != code.get(file))


# The record of a run, in its folder: settings and code by file.
RUN_RECORD = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """Where a training keeps its checkpoints, and what to tell a person about its code.

    `message` is one line, empty where there is nothing to tell. `changed` names the files that differ from those that the run
    began with.
    """

    path: Path
    fingerprint: Fingerprint
    message: str = ""
    changed: tuple[str, ...] = ()


def find_run(runs: Path, params: Train, data_hash: str, ignore_code: bool = False) -> RunFolder:
    """Return the folder below `runs` of the training with these params on this data by the code of this checkout.

    Equal settings and code share a folder, so that a training resumes. After a change of code it starts again in another folder,
    unless `ignore_code`: then it goes on in the folder with the most images among those of equal settings.
    """
    fingerprint = Fingerprint.of(params, data_hash)
    own = runs / fingerprint.name
    others: dict[Path, list[str]] = {}
    for record in runs.glob(f"*/{RUN_RECORD}"):
        values = json.loads(record.read_text(encoding="utf-8"))
        if values["settings"] == fingerprint.settings and record.parent != own and _images_seen(record.parent):
            others[record.parent] = fingerprint.changed_files(values["code"])
    latest = max(others, key=lambda folder: (_images_seen(folder), folder.name), default=own)
    if latest == own or _images_seen(own) > (_images_seen(latest) if ignore_code else 0):
        return RunFolder(own, fingerprint)
    changed = others[latest]
    files = ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
    if ignore_code:
        return RunFolder(latest, fingerprint, f"resuming run {latest.name} although its code changed: {files}", tuple(changed))
    message = f"code changed since run {latest.name}: {files}; training from the start as {own.name}"
    return RunFolder(own, fingerprint, f"{message} (--ignore-code resumes the earlier run)")


def _images_seen(folder: Path) -> int:
    """The images of the newest checkpoint in a run's folder, 0 where there is none."""
    return max((int(path.stem) for path in folder.glob("*.safetensors") if path.stem.isdigit()), default=0)
