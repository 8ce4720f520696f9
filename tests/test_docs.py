"""The documents say what the code does: generated pages are current, links lead somewhere, named commands exist."""

import argparse
import ast
import re
from pathlib import Path

import pytest

from config import reference
from config.loader import setting_paths
from neurons.cli import build_parser
from neurons.miner.access_table import MINER_ACCESS
from neurons.setup.command import doctor_parser, image_parser, setup_parser
from neurons.validator.access_table import VALIDATOR_ACCESS
from polarise.errors import ErrorCode, RejectReason

ROOT = Path(__file__).resolve().parents[1]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PACKAGES = ("polarise", "utils", "tlog", "challenges", "telemetry", "ledger", "config", "neurons")
PACKAGE_FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("__init__.py"))
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if path.name != "__init__.py")
ONE_FILE_EACH = (
    "neurons/renter",
    "neurons/setup",
    "neurons/setup/checks",
    "neurons/demo/cheats",
    "neurons/validator/scoring",
)
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        ROOT / "deploy" / "README.md",
    ]
)
COMMAND_PAGES = [path for path in DOCUMENTS if "adr" not in path.parts]


@pytest.mark.parametrize("name", sorted(reference.DOCUMENTS))
def test_generated_document_is_current(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert text == reference.DOCUMENTS[name](), f"run: python -m config.reference {name} > docs/{name}.md"


def test_every_code_and_reason_has_a_meaning() -> None:
    assert set(reference.ERROR_CODES) == set(ErrorCode)
    assert set(reference.REJECT_REASONS) == set(RejectReason)


def test_every_setting_is_described() -> None:
    rows = [line for line in reference.configuration().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.rstrip(" |").endswith("`")] == []


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_package_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_warning_that_a_daemon_logs_has_a_row() -> None:
    logged = {text for name in PACKAGES for path in (ROOT / name).rglob("*.py") for text in _warnings_of(path)}
    page = (ROOT / "docs" / "warnings.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert sorted(logged) == sorted(explained)


def test_architecture_lists_every_file() -> None:
    """Under its folder's heading; folders with one file per command, step, check or cheat are listed as folders."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [str(path.relative_to(ROOT)) for path in FILES if not _is_in_architecture(path, text)] == []


def test_a_file_that_only_another_folder_has_is_missed_in_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert _is_in_architecture(ROOT / "tlog" / "store.py", text)
    assert not _is_in_architecture(ROOT / "ledger" / "store.py", text)


def test_readme_counts_the_cheats_that_are_played() -> None:
    page = (ROOT / "docs" / "adversaries.md").read_text(encoding="utf-8")
    table = page.partition("## Cheats that are played")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| cheat ")]
    assert f"; {len(rows)} cheats are played" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_page_that_a_message_sends_to_has_that_heading() -> None:
    """Hints such as "(docs/quickstart.md, With curl)", which nobody looks at when a page is rewritten."""
    wrong = []
    for path in FILES:
        for page, heading in re.findall(r"\((README|[\w./-]+\.md), ([A-Z][\w ]+)\)", path.read_text(encoding="utf-8")):
            file = ROOT / ("README.md" if page == "README" else page)
            text = file.read_text(encoding="utf-8") if file.exists() else ""
            if not re.search(rf"^#+ (?:\d+\. )?{heading}$", text, re.MULTILINE):
                wrong.append(f"{path.relative_to(ROOT)}: {page}, {heading}")
    assert wrong == []


def test_every_test_that_a_document_names_exists() -> None:
    named = {
        (path.name, found)
        for path in COMMAND_PAGES
        for found in re.findall(r"`(tests/[A-Za-z0-9_/.]+)`", path.read_text(encoding="utf-8"))
    }
    assert [name for name in sorted(named) if not (ROOT / name[1]).exists()] == []


@pytest.mark.parametrize("path", COMMAND_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_command_exists(path: Path) -> None:
    """`python main.py a b --flag` is a command of the parser that has this flag."""
    problems = []
    for line in re.findall(r"python3? main\.py((?: [^\s`|;&)]+)+)", path.read_text(encoding="utf-8")):
        words = line.split()
        if words[0] == "COMMAND" or words[0].startswith("#"):
            continue
        parser, rest = _parser_of(words)
        flags = {option for action in parser._actions for option in action.option_strings}
        own = rest[: rest.index("--")] if "--" in rest else rest
        problems += [f"{line}: {word}" for word in own if word.startswith("-") and word not in flags]
        if _lacks_command(parser, rest):
            problems.append(f"{line}: no such command")
    assert problems == []


@pytest.mark.parametrize("path", COMMAND_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_setting_exists(path: Path) -> None:
    """`section.key` of the configuration, in prose or after ``--set``; kinds of events, and files, may look like one."""
    text = path.read_text(encoding="utf-8")
    settings = set(setting_paths())
    sections = "|".join(sorted({name.partition(".")[0] for name in settings if "." in name}))
    named = set(re.findall(r"--set \"?([a-z_.]+)=", text)) | set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", text))
    others = (".yaml", ".sqlite", ".json", ".csv", ".py", ".io", "telemetry.sample")
    assert {name for name in named - settings if not name.endswith(others)} == set()


@pytest.mark.parametrize("path", COMMAND_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def test_api_page_lists_every_route() -> None:
    rows = {(method, re.sub(r"<\w+>", "{id}", rule)) for method, rule in (*MINER_ACCESS, *VALIDATOR_ACCESS)}
    listed = set(re.findall(r"^\| `([A-Z]+) (/\S*)`", API, re.MULTILINE))
    assert listed == rows


def test_api_page_marks_the_routes_that_need_a_signature() -> None:
    signed = {re.sub(r"<\w+>", "{id}", rule) for (_, rule), access in MINER_ACCESS.items() if access.needs_signature}
    assert set(re.findall(r"^\| `[A-Z]+ (/\S*)` \*signed\*", API, re.MULTILINE)) == signed


def test_api_page_lists_every_error_code() -> None:
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", API))
    assert {str(code) for code in ErrorCode} <= listed


def _is_in_architecture(path: Path, text: str) -> bool:
    """Whether the page names the file in a part about its folder, or about a folder that this one is in."""
    part = text.partition("## One line per file")[2].partition("## Line 1")[0]
    headings_and_bodies = re.split(r"\*\*([^*\n]+)\*\*", part)[1:]
    folder = path.parent.relative_to(ROOT)
    above = [f"`{parent}/`" for parent in (folder, *folder.parents)] + [f"`{path.relative_to(ROOT)}`"]
    names = {path.stem, f"{folder.name}/{path.stem}", str(path.relative_to(ROOT))}
    if str(folder) in ONE_FILE_EACH:
        names |= {f"{folder.name}/", f"demo/{folder.name}/"}
    sections = zip(headings_and_bodies[::2], headings_and_bodies[1::2], strict=True)
    return any(
        names & set(re.findall(r"`([^`]+)`", heading + body))
        for heading, body in sections
        if any(name in heading for name in above)
    )


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def _parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """Follow the commands among the words; return the innermost parser and what is left."""
    if words[0] == "setup":
        return setup_parser(), words[1:]
    if words[0] == "doctor":
        return doctor_parser(), words[1:]
    parser, rest = (image_parser(), words[1:]) if words[0] == "image" else (build_parser(), list(words))
    while rest and (found := _commands(parser).get(rest[0])):
        parser, rest = found, rest[1:]
    return parser, rest


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _lacks_command(parser: argparse.ArgumentParser, rest: list[str]) -> bool:
    """Whether what follows is neither a command of the parser nor something it takes instead of one."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not actions or {"--help", "--version"} & set(rest):
        return False
    is_word = bool(rest) and not rest[0].startswith(("-", "#"))
    return is_word or any(action.required for action in actions)


def _warnings_of(path: Path) -> list[str]:
    """Return the constant messages that a file logs above INFO."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [
        str(ast.literal_eval(call.args[0]))
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"warning", "error", "exception", "critical"}
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "logger"
    ]
