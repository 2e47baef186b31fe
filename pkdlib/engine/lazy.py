"""Names of a package that are imported when they are first used."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path


def attach_stub(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """The package's __getattr__, __dir__ and __all__, for the names that the .pyi beside its file imports.

    torch and transformers take seconds to import, which a sweep's own processes save.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    modules = {alias.name: line.module for line in lines for alias in line.names}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(str(modules[name])), name)

    return get, lambda: [*modules, "__version__"], [*modules]
