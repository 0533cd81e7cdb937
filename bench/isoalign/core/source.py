"""What source code means, for keys: a digest that comments, docstrings, annotations, formatting and the spelling of imports
leave as it is, and that a changed constant, operator, name or called function changes."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

BASELINES = "isoalign.baselines"
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_PROVENANCE = {"Conditions", "Needs", "Paper", "Rows", "Scalars"}  # what is only told of a method: training/provenance.py
_PROVENANCE_FROM = {"isoalign", "isoalign.training.provenance"}
_IGNORED = {"ctx", "kind", "type_comment", "type_params"}  # of a node's fields: they say nothing, or not in every Python


def source_digest(modules: Iterable[str]) -> str:
    """16 hex digits of what some modules, and what they import of their own packages, mean."""
    meanings = [meaning(text, name) for name, text in sorted(_sources(tuple(modules)).items())]
    return hashlib.sha256("\0".join(meanings).encode()).hexdigest()[:16]


def names_attribute(modules: Iterable[str], attribute: str) -> bool:
    """Whether the code of some modules, and of what they import of their own packages, names an attribute anywhere."""
    return any(attribute in _attributes(text) for text in _sources(tuple(modules)).values())


def names_constant(modules: Iterable[str], value: str) -> bool:
    """Whether a string stands anywhere in the code of some modules, and of what they import of their own packages."""
    return any(value in _constants(text) for text in _sources(tuple(modules)).values())


@cache
def _constants(text: str) -> frozenset[str]:
    constants = (node.value for node in ast.walk(_parsed(text)) if isinstance(node, ast.Constant))
    return frozenset(value for value in constants if isinstance(value, str))


@cache
def _attributes(text: str) -> frozenset[str]:
    return frozenset(node.attr for node in ast.walk(_parsed(text)) if isinstance(node, ast.Attribute))


def _parsed(text: str) -> ast.Module:
    """The syntax tree of a module without the provenance of methods, which changes no result."""
    tree = ast.parse(text)
    kinds = provenance_kinds(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            node.body = [statement for statement in node.body if not is_provenance(statement, kinds)]
    return tree


def provenance_kinds(tree: ast.Module) -> set[str]:
    """The names of isoalign's kinds of provenance that a module imports; a class of its own may be called so, too."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level and node.module in _PROVENANCE_FROM
        for alias in node.names
        if alias.name in _PROVENANCE
    }


def is_provenance(statement: ast.stmt, kinds: set[str]) -> bool:
    """Whether it is an assignment annotated as provenance, of one of `provenance_kinds`: ``paper: ClassVar[Paper] = ...``."""
    return isinstance(statement, ast.AnnAssign) and any(
        isinstance(node, ast.Name) and node.id in kinds for node in ast.walk(statement.annotation)
    )


@cache
def meaning(text: str, module: str) -> str:
    """The syntax tree of a module as text, without what changes no result; imported names stand under their full names.

    ``module``: the dotted name by which its relative imports are resolved.
    """
    tree = _parsed(text)
    imports: dict[str, str] = {}
    for name, full in sorted(set(_bindings(tree, module))):  # one of two, as after an ImportError, may be either
        imports[name] = f"{imports[name]}|{full}" if name in imports else full
    rebound = imports.keys() & _bound(tree)
    resolver = _Resolver({name: full for name, full in imports.items() if name not in rebound})
    kept = [f"{name}={imports[name]}" for name in sorted(rebound)]
    stars = sorted(base for base, name in _imported(tree, module) if name == "*")
    return "\n".join([*kept, *stars, _dump(resolver.visit(tree))])


def _dump(node: object) -> str:
    """A tree as text that is equal in every version of Python: what is empty is left out."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in _IGNORED)
        parts = [f"{name}={_dump(value)}" for name, value in fields if value is not None and value != []]
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return f"{type(node).__name__}:{node!r}"


class _Resolver(ast.NodeTransformer):
    """Replaces imported names by their full names, and removes imports, docstrings and annotations of functions."""

    def __init__(self, imports: dict[str, str]) -> None:
        self.imports = imports
        self.local: list[set[str]] = []  # names that functions around the node bind themselves

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.imports or any(node.id in names for names in self.local):
            return node
        return ast.Name(self.imports[node.id], ast.Load())

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """``math.log`` is the name that ``from math import log`` binds."""
        value = self.visit(node.value)
        if isinstance(value, ast.Name) and value is not node.value:
            return ast.Name(f"{value.id}.{node.attr}", ast.Load())
        return ast.Attribute(value, node.attr, node.ctx)

    def _nested(self, node: _Scope) -> ast.AST:
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        if not isinstance(node, ast.Lambda):
            node.returns = None
            node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [default and self.visit(default) for default in node.args.kw_defaults]
        self.local.append(_bound(node) | {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)})
        node.body = self.visit(node.body) if isinstance(node, ast.Lambda) else self._statements(node.body, inside=True)
        self.local.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _nested

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self._statements(value, inside=bool(self.local)))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(each) if isinstance(each, ast.AST) else each for each in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        return node

    def _statements(self, body: list[ast.stmt], inside: bool) -> list[ast.stmt]:
        """Statements without those that do nothing; ``inside`` a function an annotation does nothing either."""
        kept: list[ast.stmt] = []
        for statement in body:
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if text or isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom) or _for_types(statement):
                continue
            if inside and isinstance(statement, ast.AnnAssign):
                if statement.value is None:
                    continue
                statement = ast.Assign([statement.target], statement.value)
            kept.append(self.visit(statement))
        return kept


def _for_types(statement: ast.stmt) -> bool:
    """Whether it is ``if TYPE_CHECKING:``, which never runs."""
    if not isinstance(statement, ast.If) or statement.orelse or not isinstance(statement.test, ast.Name | ast.Attribute):
        return False
    return ast.unparse(statement.test).rpartition(".")[2] == "TYPE_CHECKING"


def _bound(tree: ast.AST) -> set[str]:
    """Names that a scope assigns, defines or loops over, imports not included."""
    found: set[str] = set()
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def _imported(tree: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """Module and name of everything imported from one; relative imports are spelt out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((_base(node, module), alias.name) for alias in node.names)


def _bindings(tree: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """Local name to full name of what a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            base = _base(node, module)
            yield from ((alias.asname or alias.name, f"{base}.{alias.name}") for alias in node.names if alias.name != "*")


def _base(node: ast.ImportFrom, module: str) -> str:
    """The full name of what a statement in a module imports from."""
    if not node.level:
        return node.module or ""
    inside = module if _is_package(module) else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), inside)


@cache
def _is_package(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return False
    return spec is not None and spec.submodule_search_locations is not None


@cache
def _sources(modules: tuple[str, ...]) -> dict[str, str]:
    """The source of modules, and of what they import of their own packages or from beside them, by name; that of one that is
    imported is fixed."""
    waiting = list(modules)
    own = {name.partition(".")[0] for name in waiting if not name.startswith("isoalign.")}
    packages, folders = {BASELINES, *own}, {_folder(name) for name in own} - {None}
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _text(name)
            imported = _modules(ast.parse(found[name]), name)
            waiting += [each for each in imported if _of(each, packages) or _folder(each.partition(".")[0]) in folders]
    return found


@cache
def _folder(top: str) -> Path | None:
    """The folder that a module or package written in Python lies in; None where packages are installed: they have versions."""
    try:
        spec = None if top in sys.stdlib_module_names else importlib.util.find_spec(top)
    except ValueError:  # of a script or a notebook, which is __main__
        file = getattr(sys.modules[top], "__file__", None)
        return Path(file).resolve().parent if file else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    folder = file.parent.parent if spec.submodule_search_locations else file.parent
    return None if any(folder.glob("*.dist-info")) else folder


@cache
def _text(module: str) -> str:
    """The source of a module as it was when this process first asked: a file that changes later is not what runs here. That of
    an empty file is empty, and of one that can't be imported, which does not run."""
    try:
        return inspect.getsource(importlib.import_module(module))
    except (OSError, ImportError):
        return ""


def _of(module: str, packages: set[str]) -> bool:
    """Whether a module is of one of the packages, or the package itself, whose own names are a source too; of the harness's
    methods that one only finds them."""
    return any(module.startswith(f"{package}.") or module == package != BASELINES for package in packages)


def _modules(tree: ast.AST, module: str) -> Iterator[str]:
    """The modules that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
    for base, name in _imported(tree, module):
        yield base
        if _is_module(f"{base}.{name}"):
            yield f"{base}.{name}"


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
