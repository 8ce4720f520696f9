"""Settings from four places, the later winning: defaults < file < POLARISE_* variables < flags.

Rules:
- An unknown key is refused by name, with the nearest known one, wherever it comes from.
- A key that stands twice in a file is refused by name: one of the two values would be lost without a word.
- All problems are reported at once, each with its origin, key path and fix.
- Text that YAML's own reader stumbles over is a problem of the text, whatever it stumbles with; files have a bound.
- Anything can be set by a variable: ``docker.default_memory`` is ``POLARISE_DOCKER_DEFAULT_MEMORY``.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from config.schema import Config
from polarise.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent
PREFIX = "POLARISE_"
FILE_BYTES_MAX = 512 * 1024
KEYS_NAMED_MAX = 10
SECRET_PATHS = frozenset({"security.secret_key"})
# Variables with our prefix that are not settings; read where they are used.
OTHER_VARIABLES = frozenset(
    {
        "POLARISE_CONFIG",
        "POLARISE_PASSPHRASE_FILE",
        "POLARISE_RENTER_KEY",
        "POLARISE_STATE_DIR",
    }
)


@dataclass
class _Layers:
    """The merged mapping and, for each key path, where its value came from."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def put(self, path: str, value: object, origin: str) -> None:
        node = self.values
        *parents, last = path.split(".")
        for name in parents:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ConfigError(
                    f"{name} is a section, not a value", origin=origin, key_path=path, allowed="a mapping"
                )
            node = child
        node[last] = value
        self.origins[path] = origin


def load_config(
    file: Path | None = None, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Config:
    """Merge all places and check the result.

    Args:
        file: YAML file; None for defaults alone.
        environ: Process environment.
        flags: Key path -> value, from the command line.

    Raises:
        ConfigError: Any problem; names file, key path, what is wrong and the fix.
    """
    layers, problems = _Layers(), []
    if file is not None:
        for path, value in _leaves(_read_yaml(file)):
            layers.put(path, value, str(file))
    for variable, text in sorted((environ or {}).items()):
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES:
            try:
                path = _path_of_variable(variable)
                layers.put(path, parse_value(path, text, variable), variable)
            except ConfigError as err:
                problems.append(err)
    for path, value in (flags or {}).items():
        layers.put(path, value, "command line")
    try:
        config = Config.model_validate(layers.values)
    except ValidationError as err:
        raise _combined([*problems, *_problems(err, layers.origins)]) from err
    if problems:
        raise _combined(problems)
    return _with_absolute_paths(config)


def parse_value(path: str, text: str, origin: str) -> object:
    """Read one value from a variable or a flag: YAML, but a secret is taken as it stands.

    Raises:
        ConfigError: Not YAML.
    """
    if path in SECRET_PATHS:
        return text
    try:
        return yaml.safe_load(text)
    # As below: PyYAML lets through whatever the constructor of a scalar raises.
    except Exception as err:
        raise ConfigError(
            f"not a YAML value, got {text[:200]!r}",
            origin=origin,
            key_path=path,
            allowed="quote it, for example '\"[x]\"'",
        ) from err


def setting_paths(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Return the key path of every setting, sections first opened."""
    paths = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            paths.extend(setting_paths(info.annotation, f"{prefix}{name}."))
        else:
            paths.append(prefix + name)
    return paths


def variable_of(path: str) -> str:
    """Return the environment variable that sets a key path."""
    return PREFIX + path.replace(".", "_").upper()


def _read_yaml(file: Path) -> dict[str, object]:
    text = _read_text(file)
    try:
        loaded = yaml.load(text, _UniqueKeys)  # noqa: S506  a SafeLoader
    except _DuplicateKey as err:
        raise ConfigError(
            f"the key stands twice, again in line {err.line}", origin=str(file), key_path=err.key, allowed="keep one"
        ) from err
    except yaml.YAMLError as err:
        raise ConfigError(f"not YAML: {err}", origin=str(file), allowed="valid YAML") from err
    # A date of month 13, "0x_", an unknown boolean, 1,000 brackets: ValueError, KeyError, AttributeError, RecursionError.
    except Exception as err:
        problem = f"a value cannot be read: {type(err).__name__}: {str(err)[:200]}"
        raise ConfigError(problem, origin=str(file), allowed="valid YAML; quote what is meant as text") from err
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError("the file must hold a mapping", origin=str(file), allowed="sections such as network:")
    return loaded


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            raw = handle.read(FILE_BYTES_MAX + 1)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read it: {err}", origin=str(file), allowed="a readable YAML file") from err
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"it has more than {FILE_BYTES_MAX} bytes", origin=str(file), allowed="a file of settings")
    return text


class _DuplicateKey(Exception):
    def __init__(self, key: str, line: int) -> None:
        super().__init__(key)
        self.key = key
        self.line = line


class _UniqueKeys(yaml.SafeLoader):
    """YAML as everywhere, but a key that stands twice is an error; the standard asks for it, and PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node whose keys all differ."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused by PyYAML below
            if key in seen:
                raise _DuplicateKey(str(key), key_node.start_mark.line + 1)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _leaves(tree: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    known = set(setting_paths())
    leaves: list[tuple[str, object]] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if value is None and path not in known and any(other.startswith(f"{path}.") for other in known):
            continue  # a section whose every key is commented out
        # Only sections are opened: an unknown mapping is refused as a whole, however deep, and however often it holds itself.
        if isinstance(value, dict) and any(other.startswith(f"{path}.") for other in known):
            leaves.extend(_leaves(value, f"{path}."))
        else:
            leaves.append((path, value))
    return leaves


def _path_of_variable(variable: str) -> str:
    known = {variable_of(path): path for path in setting_paths()}
    if variable in known:
        return known[variable]
    close = difflib.get_close_matches(variable, [*known, *OTHER_VARIABLES], n=1)
    raise ConfigError(
        "unknown variable",
        origin="environment",
        key_path=variable,
        allowed=f"did you mean {close[0]}?" if close else "see docs/configuration.md",
    )


def _problems(err: ValidationError, origins: Mapping[str, str]) -> list[ConfigError]:
    return [_problem(dict(item), origins) for item in err.errors(include_url=False)]


def _combined(problems: Sequence[ConfigError]) -> ConfigError:
    if len(problems) == 1:
        return problems[0]
    text = "\n".join(str(problem) for problem in problems)
    return ConfigError(f"{len(problems)} settings have to change\n{text}")


def _problem(item: Mapping[str, object], origins: Mapping[str, str]) -> ConfigError:
    location = item["loc"]
    parts = [str(part) for part in location] if isinstance(location, Sequence) else [str(location)]
    path = ".".join(parts)
    origin = origins.get(path) or next((origins[p] for p in origins if p.startswith(path) or path.startswith(p)), "")
    if item["type"] == "extra_forbidden":
        return ConfigError("unknown key", origin=origin, key_path=path, allowed=_nearest(path))
    message = str(item["msg"]).removeprefix("Value error, ")
    problem, _, fix = message.partition("; ")
    found = item.get("input")
    may_show = not any(secret.startswith(path) for secret in SECRET_PATHS)
    if isinstance(found, str | int | float | bool) and may_show and repr(found) not in problem:
        problem = f"{problem}, got {found!r}"
    return ConfigError(
        problem, origin=origin, key_path=path, allowed=fix or "a value that docs/configuration.md allows"
    )


def _nearest(path: str) -> str:
    """Say which key was meant: by its name within its section, else by the whole path, else all keys of a small section."""
    prefix = f"{path.rpartition('.')[0]}." if "." in path else ""
    name = path.removeprefix(prefix)
    names = {
        known.removeprefix(prefix).partition(".")[0]: None for known in setting_paths() if known.startswith(prefix)
    }
    if close := difflib.get_close_matches(name, names, n=1):
        return f"did you mean {prefix}{close[0]}?"
    if close := difflib.get_close_matches(path, setting_paths(), n=1, cutoff=0.75):
        return f"did you mean {close[0]}?"
    if prefix and 0 < len(names) <= KEYS_NAMED_MAX:
        return f"keys of {prefix[:-1]}: {', '.join(names)}"
    return "see docs/configuration.md"


def _with_absolute_paths(config: Config) -> Config:
    updates: dict[str, object] = {}
    if config.data_dir is not None:
        updates["data_dir"] = _absolute(config.data_dir)
    if config.logging.file is not None:
        updates["logging"] = config.logging.model_copy(update={"file": _absolute(config.logging.file)})
    if config.ledger.genesis is not None:
        updates["ledger"] = config.ledger.model_copy(update={"genesis": _absolute(config.ledger.genesis)})
    return config.model_copy(update=updates)


def _absolute(path: Path) -> Path:
    try:
        expanded = path.expanduser()
    except RuntimeError as err:
        raise ConfigError(f"{str(path)[:200]!r} begins with nobody's home: {err}", allowed="an absolute path") from err
    return expanded if expanded.is_absolute() else CHECKOUT / expanded
