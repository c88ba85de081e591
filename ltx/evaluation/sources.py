"""Hash of the source code that a result depends on: given modules and everything they import from this package."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def source_hash(modules: Iterable[str], leaves: Iterable[str] = (), root: Path = PACKAGE) -> str:
    """Hash the source of modules and of all modules of this package that they import, directly or indirectly.

    Imports inside functions count; imports under `TYPE_CHECKING` do not, because they do not run.

    Args:
        modules: dotted names, such as `ltx.attribution.iia`. Modules of other packages are ignored.
        leaves: modules to hash without the modules that they import.
        root: folder of the package `ltx`.
    """
    digest = hashlib.sha256()
    for module in sorted(imported_modules(modules, root) | set(leaves)):
        digest.update(module.encode() + b"\0" + _file(module, root).read_bytes())
    return digest.hexdigest()


def imported_modules(modules: Iterable[str], root: Path = PACKAGE) -> set[str]:
    """The given modules of this package and all modules of it that they import, directly or indirectly."""
    result: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in result and _file(module, root).is_file():
            result.add(module)
            pending += _direct_imports(module, root)
    return result


def _file(module: str, root: Path) -> Path:
    path = root.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _direct_imports(module: str, root: Path) -> tuple[str, ...]:
    statements: list[ast.AST] = [ast.parse(_file(module, root).read_bytes())]
    names: set[str] = set()
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            statements += statement.orelse
            continue
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            names.add(statement.module)
            names.update(f"{statement.module}.{alias.name}" for alias in statement.names)
        statements += ast.iter_child_nodes(statement)
    # `ltx` itself imports its public names lazily and is not a dependency of the modules below it.
    return tuple(sorted(name for name in names if name.startswith("ltx.")))
