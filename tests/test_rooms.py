"""The package as CONTRIBUTING draws it: rooms in order, short signatures, full docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "clouddl").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}
del TREES["clouddl"]  # it offers names of all rooms, lazily


# Arguments that the head of a module describes for all of its functions: readers of products,
# training effects, degradations.
SHARED = (
    ["files", "member"],
    ["x", "y", "rng"],
    ["scene", "level", "rng"],
    ["scene", "level", "_"],
)


def order() -> list[str]:
    """The rooms in the order in which CONTRIBUTING lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    block = re.search(r"```text rooms\n(.*?)```", text, re.DOTALL)
    assert block, "CONTRIBUTING.md: the block `text rooms` is missing"
    lines = [line.split("#")[0] for line in block[1].splitlines()]
    return [f"clouddl.{name}" for line in lines for name in line.split()]


def imported(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports, late imports too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & FILES.keys()) or {node.module}
    return names & TREES.keys()


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    listed = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [argument.arg for argument in listed if argument.arg not in ("self", "cls")]


def test_every_module_has_its_place_in_the_list() -> None:
    assert sorted(order()) == sorted(TREES.keys() - packages_without_code())


def packages_without_code() -> set[str]:
    return {
        name
        for name, tree in TREES.items()
        if all(isinstance(node, ast.Expr) for node in tree.body)  # a docstring, or nothing
    }


@pytest.mark.parametrize("room", TREES.keys() - packages_without_code())
def test_a_room_imports_only_from_rooms_before_it(room: str) -> None:
    rooms = order()
    later = rooms[rooms.index(room) + 1 :]
    assert imported(TREES[room]) & set(later) == set()


@pytest.mark.parametrize("room", TREES)
def test_no_private_name_crosses_a_wall(room: str) -> None:
    crossing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(TREES[room])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clouddl")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert crossing == []


def test_at_most_one_function_has_more_than_eight_parameters() -> None:
    long = [
        f"{room}.{function.name}"
        for room, tree in TREES.items()
        for function in functions(tree)
        if len(parameters(function)) > 8
    ]
    assert long in ([], ["clouddl.cli.predict"])


@pytest.mark.parametrize("room", sorted(TREES.keys() - {"clouddl.cli"}))
def test_public_functions_say_what_goes_in(room: str) -> None:
    """Help describes the options of a command, and the head of a module its shared arguments."""
    silent = [
        function.name
        for function in TREES[room].body
        if isinstance(function, ast.FunctionDef)
        and not function.name.startswith("_")
        and parameters(function)
        and not function.decorator_list  # readers of products: all take the same
        and parameters(function)[:3] not in SHARED
        and parameters(function)[:2] not in SHARED
        and "Args:" not in (ast.get_docstring(function) or "")
    ]
    assert silent == []
