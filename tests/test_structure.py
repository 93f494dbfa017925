"""The shape of the package: who imports whom, and how long a file may be."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "cli",
    "api",
    "show",
    "run",
    "results",
    "metrics",
    "programs",
    "flow data",
    "cards",
    "core",
]
"""Each package imports only from packages further down, so that data flows one way."""
METHODS = {"metrics", "flow", "data", "cards", "core", "programs", "results", "run", "show"}
"""What methods and their training may import; the product itself imports none of them by name."""
PRODUCT = sorted(p for folder in ("vsrbench", "methods") for p in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The name that a file is imported by: methods/a/b.py is vsrbench.methods.a.b."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "vsrbench" else ["vsrbench", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PRODUCT}


def imports(path: Path, typing_too: bool = True) -> Iterator[str]:
    """Modules of ours that a file imports: at its top, in functions, relative, or by a string.

    typing_too: those as well that only the type checker sees.
    """
    module, tree = module_of(path), ast.parse(path.read_text(encoding="utf-8"))
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not typing_too:
            hidden |= {child for part in node.body for child in ast.walk(part)}
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (known(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + (path.name == "__init__.py")]
                base = ".".join([*above, *filter(None, [base])])
            yield from (known(f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            yield from (known(str(n.value)) for n in node.args[:1] if isinstance(n, ast.Constant))


def known(name: str) -> str:
    """The module that a dotted name is of; empty for what is not ours."""
    while name.startswith("vsrbench") and name not in MODULES:
        name = name.rpartition(".")[0]
    return name if name.startswith("vsrbench") else ""


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    level = {name: i for i, line in enumerate(LAYERS) for name in line.split()}
    own = package(module)
    if own in ("", "__main__"):  # the package itself hands out names of all of them
        return
    for other in {package(found) for found in imports(MODULES[module])} - {own, ""}:
        if own == "methods":
            assert other in METHODS, f"{module} imports vsrbench.{other}"
        else:
            assert other in level, f"{module} imports vsrbench.{other}"
            assert level[other] > level[own], f"{module} imports vsrbench.{other}, not below it"


def test_no_modules_import_each_other() -> None:
    """Also not late, in a function: what needs each other belongs together."""
    graph = {
        module: {found for found in imports(path, typing_too=False) if found and found != module}
        for module, path in MODULES.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_imports_are_found_wherever_they_hide(tmp_path: Path) -> None:
    path = ROOT / "vsrbench" / "data" / "example.py"
    text = (
        "import vsrbench.cli.run\n"
        "from ..core import keys\n"
        "from .frames import open_frames\n"
        "def late():\n"
        "    from vsrbench.run import runner\n"
        "    importlib.import_module('vsrbench.show.tables')\n"
        "if TYPE_CHECKING:\n"
        "    from vsrbench.results.store import Store\n"
    )

    class Example(type(path)):  # type: ignore[misc]
        def read_text(self, *_: object, **__: object) -> str:
            return text

    always = {"vsrbench.cli.run", "vsrbench.core.keys", "vsrbench.data.frames"}
    late = {"vsrbench.run.runner", "vsrbench.show.tables"}
    assert set(imports(Example(path), typing_too=False)) == always | late
    assert set(imports(Example(path))) == always | late | {"vsrbench.results.store"}


def test_every_package_is_in_the_wheel() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    here = {module_of(path) for path in PRODUCT if path.name == "__init__.py"}
    assert here <= set(setup["packages"])
    assert set(setup["package-data"]) <= set(setup["packages"])


LIMIT = 600
"""Lines of a file."""


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LIMIT, f"{path.relative_to(ROOT)} has {lines} lines: split it by what it does"


def test_product_code_uses_no_test_library() -> None:
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"unittest", "pytest"}, path


def test_what_is_installed_is_for_every_python_that_is_supported() -> None:
    """Some packages leave out the first releases of a Python that others still have."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        oldest = tomllib.load(file)["project"]["requires-python"].removeprefix(">=") + ".0"
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    for one in distributions():
        name, asked = one.metadata["Name"], one.metadata["Requires-Python"]
        if f"{name}=={one.version}".lower().replace("_", "-") in pins and asked:
            assert SpecifierSet(asked).contains(oldest), f"{name} {one.version}: {asked}"
