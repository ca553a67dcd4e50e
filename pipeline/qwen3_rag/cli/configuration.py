"""Command-line settings from TOML files, and the source of each value."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from qwen3_rag.arguments import as_path
from qwen3_rag.cli.common import Json, print_json, readable
from qwen3_rag.errors import InvalidArgumentError

__all__ = ["ENVIRONMENT", "read_settings", "show_settings"]

ENVIRONMENT = "QWEN3_RAG"  # QWEN3_RAG_<COMMAND>_<OPTION>
# What Kubernetes sets for a service named like a command, such as QWEN3_RAG_SERVE_PORT=tcp://10.0.0.1:80.
SERVICE_NAME = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)$")
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
HERE = "qwen3-rag.toml"
SOURCES = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}


def _file(path: Path | None) -> Path | None:
    """The settings file: `path`, else the one here or in a folder above, else the user's, else None."""
    if path is not None:
        return as_path(path, "--config")
    here = Path.cwd()
    candidates = (*(folder / HERE for folder in (here, *here.parents)), _usual())
    return next((path for path in candidates if path.is_file()), None)


@readable
def read_settings(context: typer.Context, config: Path | None) -> None:
    """Read option defaults from a file: one table per command; top-level keys apply to all except `demo`.

    Raises:
        InvalidArgumentError: The file is not TOML, or names an unknown command or option.
    """
    path = _file(config)
    context.obj = path
    _check_environment({name: _options(command) for name, command in _commands(context).items()})
    if path is None:
        return
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path} is not valid TOML: {error}") from None
    commands = _commands(context)
    options = {name: _options(command) for name, command in commands.items()}
    shared = {_plain(name): value for name, value in settings.items() if not isinstance(value, dict)}
    for name in shared:
        if not any(name in known for known in options.values()):
            nearest = _nearest(name, sorted({each for known in options.values() for each in known}))
            raise InvalidArgumentError(f"{path}: {name!r} is an option of no command{nearest}; see qwen3-rag config")
    defaults: dict[str, dict[str, Any]] = {}
    for command, known in options.items():
        table = {_plain(name): value for name, value in settings.get(command, {}).items()}
        for name in table:
            if name not in known:
                raise InvalidArgumentError(
                    f"{path}: [{command}] has no option {name!r}{_nearest(name, known)}; expected one of: "
                    f"{', '.join(known)}"
                )
        defaults[command] = {
            name: value for name, value in shared.items() if name in known and command != "demo"
        } | table
        for name, value in defaults[command].items():
            relative = isinstance(value, str) and value.startswith(("./", "../", "~"))  # a model's folder
            if relative or name in _path_options(commands[command]):
                defaults[command][name] = _beside(path, value)
    for name, value in settings.items():
        if isinstance(value, dict) and name not in options:
            nearest = _nearest(name, list(options))
            raise InvalidArgumentError(f"{path}: no command {name!r}{nearest}; expected one of: {', '.join(options)}")
    context.default_map = defaults


def _check_environment(options: Mapping[str, list[str]]) -> None:
    """Refuse variables that are named like an option of a command, but are none.

    Raises:
        InvalidArgumentError: There is such a variable.
    """
    for name, value in list(os.environ.items()):
        if name.startswith(ENVIRONMENT) and (SERVICE_NAME.search(name) or SERVICE_URL.match(value)):
            del os.environ[name]
    known = {_variable(command, option) for command, names in options.items() for option in names}
    commands = tuple(_variable(command, "") for command in options)
    for name in sorted(os.environ):
        if name.startswith(commands) and name not in known:
            raise InvalidArgumentError(f"the environment variable {name} is no option{_nearest(name, sorted(known))}")


def _variable(command: str, option: str) -> str:
    return f"{ENVIRONMENT}_{command}_{option}".upper().replace("-", "_")


def _path_options(command: Any) -> set[str]:
    hints = get_type_hints(command.callback)
    return {name for name in _options(command) if Path in _parts(hints[name])}


def _parts(hint: Any) -> set[Any]:
    """A type and what it is made of: `list[Path] | None` has `Path` in it."""
    return {hint}.union(*(_parts(part) for part in get_args(hint)))


def _beside(file: Path, value: Any) -> Any:
    """A path in a file of settings counts from the file's folder; a list of paths likewise."""
    if isinstance(value, list):
        return [_beside(file, each) for each in value]
    return str(file.absolute().parent / Path(value).expanduser()) if isinstance(value, str) else value


def _nearest(name: str, known: list[str]) -> str:
    """The known name that is most like an unknown one, for an error."""
    nearest = difflib.get_close_matches(name, known, 1)
    return f" (nearest: {nearest[0]!r})" if nearest else ""


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _commands(context: typer.Context) -> dict[str, Any]:
    # Depending on its version, Typer uses click or a vendored copy; both have these attributes.
    commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
    return commands


def _options(command: Any) -> list[str]:
    return [p.name for p in command.params if p.param_type_name == "option" and p.name != "help"]


@readable
def show_settings(context: typer.Context, as_json: Json = False) -> None:
    """Show the settings of every command and the source of each: environment, file or default.

    Example: QWEN3_RAG_SEARCH_TOP_K=5 qwen3-rag config
    """
    parent: Any = context.parent
    path = parent.obj
    rows = []
    for name, command in _commands(parent).items():
        command_context = command.make_context(name, [], parent=parent, resilient_parsing=True)
        for option in _options(command):
            source = command_context.get_parameter_source(option)
            origin = SOURCES.get(source.name if source else "", "default")
            variable = _variable(name, option)
            where = {"environment": variable, "file": str(path)}.get(origin, origin)
            if origin == "environment" and variable not in os.environ:
                where = "environment"
            rows.append({"command": name, "option": option, "value": command_context.params.get(option), "from": where})
    if as_json:
        for row in rows:
            print_json(row | {"value": row["value"] if not isinstance(row["value"], Path) else str(row["value"])})
        return
    typer.echo(f"settings from {path}" if path else f"no file of settings: {HERE} here or above, or {_usual()}")
    width = max(len(f"{row['command']} --{row['option']}") for row in rows)
    for row in rows:
        label = f"{row['command']} --{str(row['option']).replace('_', '-')}"
        value = "" if row["value"] in (None, [], ()) else row["value"]
        typer.echo(f"{label:{width}}  {value!s:12}  {'' if row['from'] == 'default' else row['from']}".rstrip())


def _usual() -> Path:
    return Path(typer.get_app_dir("qwen3-rag")) / "config.toml"
