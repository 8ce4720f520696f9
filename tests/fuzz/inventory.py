"""What reads bytes in this project, found in its source: public functions that are named like decoders or take bytes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("polarise", "utils", "tlog", "challenges", "telemetry", "ledger", "config", "neurons")
NAMED_SO = re.compile(
    r"^(decode|parse|read|open|load|from_wire|receive|feed|unhex|verify|is_proof|refusal_of|advance|unix_)|draft"
)
# Names that arguments of bytes have where the bytes are somebody else's.
FOREIGN = frozenset({"raw", "body", "line", "piece", "note", "data", "content", "printed", "message", "signature"})


def decoders() -> list[str]:
    """Return module and function of everything that looks like a decoder."""
    found: list[str] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found.extend(f"{module}.{name}" for name in _functions(tree.body, ""))
    return found


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not _is_property(node):
            if NAMED_SO.search(node.name) or _takes_foreign_bytes(node):
                yield prefix + node.name
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not _is_protocol(node):
            yield from _functions(node.body, f"{prefix}{node.name}.")


def _takes_foreign_bytes(node: ast.FunctionDef) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return any(
        argument.arg in FOREIGN and argument.annotation is not None and ast.unparse(argument.annotation) == "bytes"
        for argument in arguments
    )


def _is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list)


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
