"""The allowed imports of css and tui: they go with the data only (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("css/**/*.py"), *ROOT.glob("tui/**/*.py")])


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module imported anywhere in the file, also inside functions; type-only imports do not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


GRAPH = {name_of(path): imports_of(path) for path in MODULES}


def importers(*targets: str) -> set[str]:
    return {
        name
        for name, imported in GRAPH.items()
        if any(i == target or i.startswith(target + ".") for i in imported for target in targets)
    }


def under(*packages: str) -> set[str]:
    return {name for name in GRAPH if any(name == p or name.startswith(p + ".") for p in packages)}


@pytest.mark.parametrize("module", ["css.model", "css.errors"])
def test_the_vocabulary_imports_nothing_of_ours(module: str) -> None:
    """model and errors are the ground: they import no other module of the project."""
    assert not {i for i in GRAPH[module] if i.startswith(("css", "tui"))}


@pytest.mark.parametrize("module", ["css.arn", "css.config"])
def test_the_readers_of_text_import_only_the_vocabulary(module: str) -> None:
    """arn and config may raise errors of the vocabulary and know nothing else."""
    ours = {i for i in GRAPH[module] if i.startswith(("css", "tui"))}
    assert {".".join(i.split(".")[:2]) for i in ours} <= {"css.errors", "css"}


PURE = ["arn", "config", "drift", "envelope", "errors", "log", "model", "normalize", "query", "view", "wire"]


@pytest.mark.parametrize("module", [f"css.{name}" for name in PURE])
def test_pure_modules_do_no_io(module: str) -> None:
    """What decides imports neither trio nor sockets, threads, boto3 or gRPC."""
    forbidden = (
        "trio",
        "socket",
        "threading",
        "subprocess",
        "boto3",
        "botocore",
        "grpc",
        "etcd3",
        "sqlite3",
        "asyncio",
    )
    assert not {i for i in GRAPH[module] if i.split(".")[0] in forbidden}


def test_only_the_edges_import_boto3() -> None:
    """AWS is spoken in css.source, css.ecs and their client factory alone."""
    assert importers("boto3", "botocore") <= under("css.source") | {"css.ecs", "css.aws"}


def test_only_the_etcd_store_imports_grpc() -> None:
    """etcd's wire is known to one place."""
    assert importers("etcd3", "grpc") <= {name for name in GRAPH if name.startswith("css.store.etcd")}


def test_only_the_embedded_store_imports_sqlite() -> None:
    """SQLite's file is opened in one place."""
    assert importers("sqlite3") <= {"css.store.embedded"}


def test_the_server_reads_only_the_view() -> None:
    """server/* never imports a store or a source: reads never touch them."""
    assert not importers("css.store", "css.source") & under("css.server")


def test_the_ui_knows_only_the_client_side() -> None:
    """tui/* imports the client, the messages and the shared pure modules, nothing of the daemon."""
    allowed = ("css.client", "css.wire", "css.view", "css.query", "css.model", "css.errors")
    imported = {i for name in under("tui") for i in GRAPH[name] if i.startswith("css.")}
    assert not {i for i in imported if not any(i == a or i.startswith(a + ".") for a in allowed)}


def test_only_the_map_starts_the_actors() -> None:
    """No module but css.service (and the command line, lazily) imports it."""
    assert importers("css.service") <= under("css.cli")
