"""The shape of the house, counted: imports at the top of files, no reaching into private names, files of one story."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoalign.core.places import BASELINES, PACKAGE
from isoalign.core.source import is_provenance, provenance_kinds

SOURCES = sorted(file for file in PACKAGE.rglob("*.py") if "__pycache__" not in file.parts)
ALGORITHMS = sorted(BASELINES.rglob("*.py"))
MOST_INDENTED, MOST_REACHES, MOST_LINES, MOST_LINES_OF_CODE = 40, 10, 300, 60
BLANK = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
FOREIGN = {  # private names of Python and torch for which there is no public way
    "_get_current_dispatch_mode_stack", "_pop_mode", "_threads_queues", "_version", "_overloadpacket",
}  # fmt: skip


def for_types(tree: ast.AST) -> set[int]:
    """Nodes below `if TYPE_CHECKING:`."""
    guards = (n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING"))
    return {id(node) for guard in guards for node in ast.walk(guard)}


def indented(file: Path) -> Iterator[int]:
    """Lines of the imports that stand inside a function or a block."""
    tree = ast.parse(file.read_text())
    typed = for_types(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node.col_offset and id(node) not in typed:
            yield node.lineno


def reaches(file: Path) -> Iterator[tuple[int, str]]:
    """Private names that a file takes from another one: imported, or read off an object that is not its own."""
    tree = ast.parse(file.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"}
    own |= {ast.unparse(n.target) for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [node.attr] if isinstance(node, ast.Attribute) and node.attr not in own else []
        for name in names:
            if name.startswith("_") and not name.startswith("__") and name not in FOREIGN and not name.startswith("_scaled"):
                yield node.lineno, name


def test_imports_stand_at_the_top_and_each_that_does_not_says_why() -> None:
    places = [(file, line) for file in SOURCES for line in indented(file)]
    assert len(places) < MOST_INDENTED, len(places)
    for file, line in places:
        lines = file.read_text().splitlines()
        near = lines[line - 2 : line]  # a comment on the line of the import, or on its own before it
        assert any("#" in each for each in near), (
            f"{file.relative_to(PACKAGE)}:{line} has no reason: {lines[line - 1].strip()}"
        )


def test_hardly_any_module_reaches_into_private_names_of_another() -> None:
    found = [f"{file.relative_to(PACKAGE)}:{line}: {name}" for file in SOURCES for line, name in reaches(file)]
    assert len(found) < MOST_REACHES, found


def test_at_most_three_modules_are_loose_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 3


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_file_is_one_story(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MOST_LINES


def code(text: str) -> set[int]:
    """The lines of a module that say what it does: not blank, a comment, a text by itself, an import, or provenance."""
    tree = ast.parse(text)
    kinds = provenance_kinds(tree)
    told = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.stmt) and is_provenance(node, kinds))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for t in tokens if t.type not in BLANK for line in range(t.start[0], t.end[0] + 1)}
    return lines - told


def test_lines_of_code_are_those_that_do_something() -> None:
    text = (
        '"""A text."""\n\nfrom isoalign import Paper\nfrom a import (\n    b,\n)\n\n\nclass A:\n    """Of two\n    lines."""\n'
        "\n    paper: ClassVar[Paper] = Paper(\n        1,\n    )\n    # why\n    beta: float = (\n        0.1  # so\n    )\n"
    )
    assert code(text) == {9, 17, 18, 19}


@pytest.mark.parametrize("file", ALGORITHMS, ids=lambda file: file.relative_to(BASELINES).as_posix())
def test_an_algorithm_is_at_most_sixty_lines_of_code(file: Path) -> None:
    """Beside its docstrings, imports and paper, which only tell."""
    assert len(code(file.read_text())) <= MOST_LINES_OF_CODE
