"""Command-line settings from TOML files, and the source of each value."""

import os
import tomllib
from pathlib import Path
from typing import Any

import typer

from qwen3_rag.arguments import as_path
from qwen3_rag.cli.common import Json, print_json, readable
from qwen3_rag.errors import InvalidArgumentError

__all__ = ["ENVIRONMENT", "read_settings", "show_settings"]

ENVIRONMENT = "QWEN3_RAG"  # QWEN3_RAG_<COMMAND>_<OPTION>
HERE = "qwen3-rag.toml"
SOURCES = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}


def _file(path: Path | None) -> Path | None:
    """The settings file: `path`, else the one in the current folder, else the user's, else None."""
    if path is not None:
        return as_path(path, "--config")
    candidates = (Path(HERE), Path(typer.get_app_dir("qwen3-rag")) / "config.toml")
    return next((path for path in candidates if path.is_file()), None)


@readable
def read_settings(context: typer.Context, config: Path | None) -> None:
    """Read option defaults from a file: one table per command; top-level keys apply to all except `demo`.

    Raises:
        InvalidArgumentError: The file is not TOML, or names an unknown command or option.
    """
    path = _file(config)
    context.obj = path
    if path is None:
        return
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path} is not valid TOML: {error}") from None
    options = {name: _options(command) for name, command in _commands(context).items()}
    shared = {_plain(name): value for name, value in settings.items() if not isinstance(value, dict)}
    for name in shared:
        if not any(name in known for known in options.values()):
            raise InvalidArgumentError(f"{path}: {name!r} is an option of no command; see qwen3-rag config")
    defaults: dict[str, dict[str, Any]] = {}
    for command, known in options.items():
        table = {_plain(name): value for name, value in settings.get(command, {}).items()}
        for name in table:
            if name not in known:
                raise InvalidArgumentError(
                    f"{path}: [{command}] has no option {name!r}; expected one of: {', '.join(known)}"
                )
        defaults[command] = {
            name: value for name, value in shared.items() if name in known and command != "demo"
        } | table
    for name, value in settings.items():
        if isinstance(value, dict) and name not in options:
            raise InvalidArgumentError(f"{path}: no command {name!r}; expected one of: {', '.join(options)}")
    context.default_map = defaults


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
            variable = f"{ENVIRONMENT}_{name}_{option}".upper().replace("-", "_")
            where = {"environment": variable, "file": str(path)}.get(origin, origin)
            if origin == "environment" and variable not in os.environ:
                where = "environment"
            rows.append({"command": name, "option": option, "value": command_context.params.get(option), "from": where})
    if as_json:
        for row in rows:
            print_json(row | {"value": row["value"] if not isinstance(row["value"], Path) else str(row["value"])})
        return
    typer.echo(f"settings from {path}" if path else f"no file of settings: {HERE} here, or {_usual()}")
    width = max(len(f"{row['command']} --{row['option']}") for row in rows)
    for row in rows:
        label = f"{row['command']} --{str(row['option']).replace('_', '-')}"
        value = "" if row["value"] in (None, [], ()) else row["value"]
        typer.echo(f"{label:{width}}  {value!s:12}  {'' if row['from'] == 'default' else row['from']}".rstrip())


def _usual() -> Path:
    return Path(typer.get_app_dir("qwen3-rag")) / "config.toml"
