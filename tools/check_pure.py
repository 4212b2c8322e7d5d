"""Deciding modules take values and return values: this reads their source and says where one does not.

The modules are listed in pyproject.toml under [tool.llama_orch] deciding. What they import of ours is read too, so
nothing impure comes in by a detour; what stands under `if TYPE_CHECKING:` does not run and is free. It reads the text
and never imports it, so a clock that comes in as an argument is, as it should be, no finding.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

IMPURE_STDLIB = frozenset(
    {
        "_thread",
        "asyncio",
        "concurrent",
        "fcntl",
        "glob",
        "http",
        "importlib",
        "io",
        "logging",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "random",
        "resource",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "socketserver",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uuid",
    }
)
# Parts of these that are values all the same.
PURE_PARTS = frozenset(
    {
        "http.HTTPMethod",
        "http.HTTPStatus",
        "io.BytesIO",
        "io.StringIO",
        "pathlib.PurePath",
        "pathlib.PurePosixPath",
        "random.Random",
        "urllib.parse",
        "uuid.UUID",
        "uuid.uuid5",
    }
)
PURE_EXTERNAL = frozenset({"msgspec"})
IMPURE_BUILTINS = frozenset({"breakpoint", "eval", "exec", "input", "open", "print"})
CLOCK_CALLS = frozenset({"now", "today", "utcnow"})


def module_file(module: str, root: Path) -> Path | None:
    """Where the module stands below the root; None when it is not ours or does not exist."""
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def expand(patterns: list[str], root: Path) -> list[str]:
    """The listed modules: "x.*" names every module of a package."""
    modules: set[str] = set()
    for pattern in patterns:
        if pattern.endswith(".*"):
            package = pattern[:-2]
            files = root.joinpath(*package.split(".")).rglob("*.py")
            names = (".".join(file.relative_to(root).with_suffix("").parts) for file in files)
            modules.update([package, *(name.removesuffix(".__init__") for name in names)])
        else:
            modules.add(pattern)
    return sorted(modules)


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of the tree but those that only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for other in child.orelse:
                yield other
                yield from running_nodes(other)
            continue
        yield child
        yield from running_nodes(child)


def imported_names(node: ast.AST, package: str) -> list[str]:
    """The dotted names that an import statement brings in: `from a import b` gives a.b."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            parents = package.split(".")[: len(package.split(".")) + 1 - level] if level else []
            base = ".".join([*parents, *([module] if module else [])])
            return [f"{base}.{alias.name}" for alias in names]
        case _:
            return []


def is_pure_import(name: str) -> bool:
    """Whether a name that is not ours may be imported by a deciding module."""
    top = name.partition(".")[0]
    if any(name == part or name.startswith(f"{part}.") for part in PURE_PARTS):
        return True
    if top in sys.stdlib_module_names:
        return top not in IMPURE_STDLIB
    return top in PURE_EXTERNAL


def impure_use(node: ast.AST) -> str | None:
    """What the node does that a decision must not, apart from its imports."""
    match node:
        case ast.Await() | ast.AsyncFor() | ast.AsyncWith() | ast.comprehension(is_async=1):
            return "waits"
        case ast.Call(func=ast.Name(id=name)) if name in IMPURE_BUILTINS:
            return f"calls {name}()"
        case ast.Attribute(value=value, attr=attr) if attr in CLOCK_CALLS:
            owner = ast.unparse(value)
            if owner.rpartition(".")[2] in {"date", "datetime"}:
                return f"reads the clock with {owner}.{attr}: take `now` as an argument"
    return None


def findings_in(module: str, root: Path) -> tuple[list[str], list[str]]:
    """What is impure in one module, as lines, and the modules of ours that it imports."""
    file = module_file(module, root)
    if file is None:
        return [f"{module}: listed as deciding, but there is no such module"], []
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    where = file.relative_to(root)
    findings: list[str] = []
    ours: list[str] = []
    for node in running_nodes(ast.parse(file.read_text())):
        if use := impure_use(node):
            findings.append(f"{where}:{getattr(node, 'lineno', 0)}: {use}")
        for name in imported_names(node, package):
            if (root / name.partition(".")[0]).is_dir():
                target = name if module_file(name, root) else name.rpartition(".")[0]
                ours.extend(target.rsplit(".", depth)[0] for depth in range(target.count(".") + 1))
            elif not is_pure_import(name):
                findings.append(f"{where}:{getattr(node, 'lineno', 0)}: imports {name}")
    return findings, [name for name in ours if name]


def check(patterns: list[str], root: Path) -> list[str]:
    """Every finding in the listed modules and in what they import of ours, each with the way that led there."""
    waiting = [(module, [module]) for module in expand(patterns, root)]
    seen = {module for module, _ in waiting}
    lines: list[str] = []
    while waiting:
        module, way = waiting.pop(0)
        findings, imports = findings_in(module, root)
        suffix = f" (by {' -> '.join(way)})" if len(way) > 1 else ""
        lines.extend(finding + suffix for finding in findings)
        for imported in imports:
            if imported not in seen:
                seen.add(imported)
                waiting.append((imported, [*way, imported]))
    return lines


def main() -> int:
    """Print the findings; the result is the exit status."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["llama_orch"]["deciding"]
    lines = check(patterns, ROOT)
    print("\n".join(lines) or f"deciding modules: {len(expand(patterns, ROOT))} take values and return values")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
