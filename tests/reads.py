"""Where the code reads the values of params.yaml: a walk over its syntax that follows sections by their types.

What has a type: annotated arguments and attributes, what a function with an annotation returns, fields of sections, and whatever
is assigned from those. A read counts for the section that it is made on, not for its name alone.
"""

from __future__ import annotations

import ast
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anyres import params


class Named(NamedTuple):
    """A class or function of the code, or an object of that class."""

    name: str
    kind: str


class Of(NamedTuple):
    """Several things: one after the other where `each`, else any number of the same."""

    parts: tuple[frozenset[Any], ...]
    each: bool


class Read(NamedTuple):
    """A field or a property that is read of a section, in a module and there in a function, at a place of its text."""

    section: str
    name: str
    module: str
    within: str
    line: int
    column: int


Types = frozenset[Any]
NOTHING: Types = frozenset()
SECTIONS = {
    f"anyres.params.{name}": one
    for name, one in vars(params).items()
    if isinstance(one, type) and issubclass(one, params.Section)
}
NAMES = {section: name for name, section in SECTIONS.items()}
# What passes on the elements of its first argument.
SAME = {"list", "tuple", "sorted", "iter", "reversed", "set", "frozenset"}
ONE = {"next", "min", "max"}
MANY = {"list", "Sequence", "Iterable", "Iterator", "Generator", "Collection", "set", "frozenset", "Callable"}


def union(found: Iterable[Types]) -> Types:
    return frozenset().union(*found)


def of_hint(hint: Any) -> Types:
    """The sections in the annotation of a field, as pydantic knows it."""
    if isinstance(hint, type) and issubclass(hint, params.Section):
        return frozenset({Named(NAMES[hint], "object")})
    parts = typing.get_args(hint)
    return union(map(of_hint, parts)) if isinstance(hint, types.UnionType) or parts else NOTHING


@functools.cache
def fields(section: str) -> dict[str, Types]:
    return {name: of_hint(field.annotation) for name, field in SECTIONS[section].model_fields.items()}


@functools.cache
def members(section: str) -> frozenset[str]:
    return frozenset(dir(SECTIONS[section])) | fields(section).keys()


@functools.cache
def parsed(annotation: str) -> ast.expr | None:
    """The expression of an annotation in quotes; None of the shape of an array, such as "b 3 h w"."""
    try:
        return ast.parse(annotation.strip(), mode="eval").body
    except SyntaxError:
        return None


def elements(found: Types) -> Types:
    return union(part for one in found if isinstance(one, Of) for part in one.parts)


class Code:
    """Modules by name, with all that they define."""

    def __init__(self, modules: Mapping[str, ast.Module]) -> None:
        self.modules = modules
        self.names: dict[str, dict[str, str]] = {name: {} for name in modules}
        self.classes: dict[str, ast.ClassDef] = {}
        self.functions: dict[str, ast.FunctionDef] = {}
        self.attributes: dict[tuple[str, str], Types] = {}
        self.facts: dict[str, dict[str, set[str]]] = {}
        self.owner = functools.cache(self._owner)
        self.bases = functools.cache(self._bases)
        for module, tree in modules.items():
            self._define(module, tree)
        for _ in range(2):
            for module in modules:
                Walk(self, module).module()

    def _define(self, module: str, tree: ast.Module) -> None:
        names = self.names[module]
        for node in ast.walk(tree):
            # Imports in functions too: no name stands for two things in a module.
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            elif isinstance(node, ast.Import):
                names |= {one.asname: one.name for one in node.names if one.asname}
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                names[node.name] = f"{module}.{node.name}"
            if isinstance(node, ast.ClassDef):
                self.classes[f"{module}.{node.name}"] = node
                for part in node.body:
                    if isinstance(part, ast.FunctionDef):
                        self.functions[f"{module}.{node.name}.{part.name}"] = part
            elif isinstance(node, ast.FunctionDef):
                self.functions[f"{module}.{node.name}"] = node

    def resolve(self, name: str) -> str:
        """The module that defines what another one passes on."""
        for _ in range(2):
            module, _, last = name.rpartition(".")
            if name in self.classes or name in self.functions or module not in self.names:
                break
            name = self.names[module].get(last, name)
        return name

    def _owner(self, name: str) -> str:
        return next(module for module in sorted(self.modules, key=len, reverse=True) if name.startswith(f"{module}."))

    def _bases(self, name: str) -> list[str]:
        """A class and those that it is made of, nearest first."""
        if name not in self.classes:
            return []
        module = self.owner(name)
        above = [self.resolve(self.names[module].get(ast.unparse(base), "")) for base in self.classes[name].bases]
        return [name, *(one for base in above for one in self.bases(base))]

    def annotation(self, module: str, node: ast.AST | None) -> Types:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = parsed(node.value)
        if isinstance(node, ast.BinOp):
            return self.annotation(module, node.left) | self.annotation(module, node.right)
        if isinstance(node, ast.Subscript):
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            parts = [self.annotation(module, one) for one in inner]
            kind = ast.unparse(node.value).rpartition(".")[2]
            if kind == "tuple" and ast.unparse(inner[-1]) != "...":
                return frozenset({Of(tuple(parts), True)})
            if kind in MANY | {"tuple"}:
                return frozenset({Of((union(parts[:1]),), False)})
            return union(parts) if kind in ("Annotated", "Optional") else self.annotation(module, node.value)
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = self.full(module, node)
            return frozenset({Named(name, "object")}) if name in self.classes or name in SECTIONS else NOTHING
        return NOTHING

    def full(self, module: str, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            first, rest = node.id, ""
        else:
            first, _, rest = ast.unparse(node).partition(".")
        found = self.names[module].get(first, "")
        return self.resolve(f"{found}.{rest}" if rest else found)

    def attribute(self, name: str, attribute: str) -> Types:
        """The type of an attribute of an object of a class."""
        for base in self.bases(name):
            function = self.functions.get(f"{base}.{attribute}")
            if function is not None:
                got = {ast.unparse(one).rpartition(".")[2] for one in function.decorator_list}
                if got & {"property", "cached_property"}:
                    return self.annotation(self.owner(base), function.returns)
                return frozenset({Named(f"{base}.{attribute}", "function")})
            if found := self.attributes.get((base, attribute)):
                return found
        return NOTHING


class Walk:
    """Every expression of a module, and what type it has."""

    def __init__(self, code: Code, module: str) -> None:
        self.code, self.name = code, module
        self.reads: list[Read] = []
        self.within = ""
        # What is known of an expression's class, by how it is written.
        self.narrow: dict[str, set[str]] = {}

    def module(self) -> list[Read]:
        self.block(self.code.modules[self.name].body, {}, "")
        return self.reads

    # ---- statements

    def block(self, body: Iterable[ast.stmt], known: dict[str, Types], owner: str) -> None:
        for node in body:
            self.statement(node, known, owner)

    def statement(self, node: ast.AST, known: dict[str, Types], owner: str) -> None:
        match node:
            case ast.ClassDef():
                name = f"{self.name}.{node.name}"
                for part in node.body:
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        self.code.attributes[name, part.target.id] = self.code.annotation(self.name, part.annotation)
                self.block(node.body, dict(known), name)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.function(node, known, owner)
            case ast.Assign():
                found = self.see(node.value, known)
                for target in node.targets:
                    self.bind(target, found, known)
            case ast.AnnAssign():
                if node.value:
                    self.see(node.value, known)
                self.bind(node.target, self.code.annotation(self.name, node.annotation), known)
            case ast.For() | ast.AsyncFor():
                self.bind(node.target, elements(self.see(node.iter, known)), known)
                self.block([*node.body, *node.orelse], known, owner)
            case ast.Assert():
                self.see(node.test, known)
                self.narrow |= self.told(node.test)
            case ast.If():
                self.see(node.test, known)
                before = self.narrow
                self.narrow = before | self.told(node.test)
                self.block(node.body, known, owner)
                self.narrow = before
                self.block(node.orelse, known, owner)
            case ast.withitem():
                found = self.see(node.context_expr, known)
                if node.optional_vars:
                    self.bind(node.optional_vars, found, known)
            case _:
                for part in ast.iter_child_nodes(node):
                    if isinstance(part, ast.expr):
                        self.see(part, known)
                    else:
                        self.statement(part, known, owner)

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, known: dict[str, Types], owner: str) -> None:
        inner, before, outside = dict(known), self.narrow, self.within
        self.narrow, self.within = dict(before), f"{owner or self.name}.{node.name}"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            inner[argument.arg] = self.code.annotation(self.name, argument.annotation)
        method = bool(owner) and not any(ast.unparse(one) == "staticmethod" for one in node.decorator_list)
        if method and arguments:
            of_class = any(ast.unparse(one) == "classmethod" for one in node.decorator_list)
            inner[arguments[0].arg] = frozenset({Named(owner, "class" if of_class else "object")})
            # What the same method of a class above insists on holds here: it is called with the same.
            for base in self.code.bases(owner):
                self.narrow |= self.code.facts.get(f"{base}.{node.name}", {})
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.decorator_list]:
            self.see(default, known)
        self.block(node.body, inner, "")
        if method:
            self.code.facts[f"{owner}.{node.name}"] = self.narrow
        self.narrow, self.within = before, outside

    def told(self, test: ast.AST) -> dict[str, set[str]]:
        """What a condition says of classes."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return {key: value for part in test.values for key, value in self.told(part).items()}
        if isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance":
            classes = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
            return {ast.unparse(test.args[0]): {self.code.full(self.name, one) for one in classes}}
        return {}

    def bind(self, target: ast.AST, found: Types, known: dict[str, Types]) -> None:
        match target:
            case ast.Name():
                known[target.id] = found
            case ast.Tuple() | ast.List():
                for place, part in enumerate(target.elts):
                    self.bind(part, union(self.at(one, place) for one in found), known)
            case ast.Attribute():
                for one in self.see(target.value, known):
                    if isinstance(one, Named) and one.name in self.code.classes:
                        key = one.name, target.attr
                        self.code.attributes[key] = self.code.attributes.get(key, NOTHING) | found
            case ast.Starred():
                self.bind(target.value, NOTHING, known)
            case _:
                self.see(target, known)

    def at(self, found: Any, place: int) -> Types:
        if not isinstance(found, Of):
            return NOTHING
        if not found.each:
            return found.parts[0]
        return found.parts[place] if -len(found.parts) <= place < len(found.parts) else NOTHING

    # ---- expressions

    def see(self, node: ast.AST, known: dict[str, Types]) -> Types:
        found = self.look(node, known)
        if self.narrow and found and isinstance(node, (ast.Name, ast.Attribute)) and (only := self.narrow.get(ast.unparse(node))):
            return frozenset(one for one in found if isinstance(one, Named) and one.name in only) or found
        return found

    def look(self, node: ast.AST, known: dict[str, Types]) -> Types:
        match node:
            case ast.Name():
                return known[node.id] if node.id in known else self.thing(self.code.full(self.name, node))
            case ast.Attribute():
                return self.attribute(node, known)
            case ast.Call():
                return self.call(node, known)
            case ast.Tuple() | ast.List() | ast.Set():
                parts = tuple(self.see(part, known) for part in node.elts)
                return frozenset({Of(parts, True) if isinstance(node, ast.Tuple) else Of((union(parts),), False)})
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                inner = dict(known)
                for loop in node.generators:
                    self.bind(loop.target, elements(self.see(loop.iter, inner)), inner)
                    for test in loop.ifs:
                        self.see(test, inner)
                kept = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                return frozenset({Of((union([self.see(part, inner) for part in kept]),), False)})
            case ast.IfExp():
                self.see(node.test, known)
                return self.see(node.body, known) | self.see(node.orelse, known)
            case ast.BoolOp():
                return union([self.see(part, known) for part in node.values])
            case ast.NamedExpr():
                found = self.see(node.value, known)
                self.bind(node.target, found, known)
                return found
            case ast.Subscript():
                found = self.see(node.value, known)
                self.see(node.slice, known)
                place = node.slice.value if isinstance(node.slice, ast.Constant) else None
                return union(self.at(one, place) for one in found) if isinstance(place, int) else elements(found)
            case ast.Lambda():
                self.see(node.body, known | {argument.arg: NOTHING for argument in node.args.args})
                return NOTHING
            case _:
                for part in ast.iter_child_nodes(node):
                    self.see(part, known)
                return NOTHING

    def thing(self, name: str) -> Types:
        """What a name of a module means."""
        if name in self.code.classes or name in SECTIONS:
            return frozenset({Named(name, "class")})
        if name in self.code.functions:
            return frozenset({Named(name, "function")})
        return frozenset({Named(name, "module")}) if name in self.code.modules else NOTHING

    def attribute(self, node: ast.Attribute, known: dict[str, Types]) -> Types:
        found = []
        for one in self.see(node.value, known):
            if not isinstance(one, Named):
                continue
            if one.kind == "module":
                found.append(self.thing(self.code.resolve(f"{one.name}.{node.attr}")))
            elif one.name in SECTIONS and node.attr in members(one.name):
                if one.kind == "object":
                    self.reads.append(Read(one.name, node.attr, self.name, self.within, node.lineno, node.col_offset))
                if node.attr in ("load", "model_validate", "model_copy"):
                    found.append(frozenset({Named(one.name, "maker")}))
                found.append(fields(one.name).get(node.attr, NOTHING))
            elif one.name not in SECTIONS:
                found.append(self.code.attribute(one.name, node.attr))
        return union(found)

    def call(self, node: ast.Call, known: dict[str, Types]) -> Types:
        called = self.see(node.func, known)
        given = [self.see(part, known) for part in node.args]
        for part in node.keywords:
            self.see(part.value, known)
        found = []
        for one in called:
            if not isinstance(one, Named):
                continue
            if one.kind in ("class", "maker"):
                found.append(frozenset({Named(one.name, "object")}))
            elif one.kind == "function":
                module = self.code.owner(one.name)
                found.append(self.code.annotation(module, self.code.functions[one.name].returns))
        plain = node.func.id if isinstance(node.func, ast.Name) else ""
        if plain == "zip":
            found.append(frozenset({Of((frozenset({Of(tuple(map(elements, given)), True)}),), False)}))
        elif plain == "enumerate" and given:
            found.append(frozenset({Of((frozenset({Of((NOTHING, elements(given[0])), True)}),), False)}))
        elif plain in SAME and given:
            found.append(frozenset({Of((elements(given[0]),), False)}))
        elif plain in ONE and given:
            found.append(elements(given[0]))
        return union(found)


def parse(root: Path, *packages: str) -> dict[str, ast.Module]:
    """The modules of packages by their names."""
    found = {}
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def all_reads(modules: Mapping[str, ast.Module]) -> list[Read]:
    """Every read of a field, a property or a method of a section."""
    code = Code(modules)
    return [read for name in modules for read in Walk(code, name).module()]


def unread(reads: Iterable[Read]) -> list[str]:
    """Fields of sections that nothing outside of params.py reads, be it through a property of a section."""
    reads = list(reads)
    inside: dict[str, set[tuple[str, str]]] = {}
    for read in reads:
        inside.setdefault(read.within, set()).add((read.section, read.name))
    found: set[tuple[str, str]] = set()
    waiting = {(read.section, read.name) for read in reads if read.module != "anyres.params"}
    while waiting:
        found |= waiting
        waiting = {more for section, name in waiting for more in inside.get(f"{section}.{name}", ())} - found
    return [
        f"{section.removeprefix('anyres.params.')}.{name}"
        for section in SECTIONS
        for name in fields(section)
        if (section, name) not in found
    ]
