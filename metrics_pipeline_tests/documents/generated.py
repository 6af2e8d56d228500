"""The blocks of docs/ that are generated from the code, each between two comments that name it.

A page keeps its own words around them: `<!-- make docs: commands -->` … `<!-- end -->`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import postgresql
from typer.main import get_command

from metrics_pipeline.api.app import build_app
from metrics_pipeline.cli import app as command_line
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.privileges import PRIVILEGES
from metrics_pipeline.postgres.tables import metadata
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.documents.declarations import metric_columns, products, upstream_columns, variables

_BLOCK = re.compile(r"<!-- make docs: (\w+) -->.*?<!-- end -->", re.DOTALL)


def renewed(page: str) -> str:
    """The text of a page with each of its blocks as the code has it now. Raises KeyError for an unknown block."""
    return _BLOCK.sub(lambda block: f"<!-- make docs: {block[1]} -->\n\n{BLOCKS[block[1]]()}\n\n<!-- end -->", page)


def blocks_of(page: str) -> list[str]:
    """The names of the blocks that a page has."""
    return _BLOCK.findall(page)


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _code(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


# Commands


def _commands() -> str:
    return "\n\n".join(_command_sections(get_command(command_line), "metrics-pipeline"))


def _command_sections(command: Any, path: str) -> list[str]:
    if hasattr(command, "commands"):
        return [
            section for name, part in command.commands.items() for section in _command_sections(part, f"{path} {name}")
        ]
    arguments = [parameter for parameter in command.params if not parameter.opts[0].startswith("-")]
    options = [parameter for parameter in command.params if parameter.opts[0].startswith("-")]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *map(_argument, arguments)])
    parts = [f"## {path}", f"```\n{usage}\n```", command.help.replace("\n\n\n", "\n\n")]
    if arguments:
        parts.append(_table(("argument", "meaning"), [(f"`{part.metavar}`", part.help) for part in arguments]))
    if options:
        rows = [(_code([_option(part)]), part.help, _default(part)) for part in options]
        parts.append(_table(("option", "meaning", "default"), rows))
    return ["\n\n".join(parts)]


def _argument(parameter: Any) -> str:
    return f"{parameter.metavar}{'...' if parameter.nargs == -1 else ''}"


def _option(parameter: Any) -> str:
    value = parameter.metavar or ("" if parameter.is_flag else parameter.name.upper())
    return f"{parameter.opts[0]} {value}".strip()


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.is_flag or parameter.default is None else f"`{str(parameter.default).partition(' ')[0]}`"


# Configuration


def _variables() -> str:
    return _table(
        ("variable", "meaning", "set it to", "default"),
        [
            (f"`{name}`", meaning, accepted, f"`{default}`" if default else "")
            for name, meaning, accepted, default in variables()
        ],
    )


# API

#: The sort orders are two for each column; naming them all would fill the table.
_MAX_NAMED_VALUES = 10


@cache
def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of the API, made without a database."""
    app = build_app(Settings(Path()), Database(DatabaseUrl.parse("postgresql://localhost/none", "documents")))
    return app.openapi()


def _operations() -> str:
    return "\n\n".join(
        _operation(method, path, operation)
        for path, methods in openapi_document()["paths"].items()
        for method, operation in methods.items()
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"### {operation['summary']}", f"`{method.upper()} {path}`", operation["description"]]
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"`{parameter['name']}`",
                parameter["in"],
                _schema(parameter["schema"]),
                parameter["description"],
                "required" if parameter["required"] else _json_default(parameter["schema"]),
            )
            for parameter in parameters
        ]
        parts.append(_table(("parameter", "in", "type", "meaning", "default"), rows))
    rows = [(status, response["description"]) for status, response in sorted(operation["responses"].items())]
    parts.append(_table(("status", "meaning"), rows))
    return "\n\n".join(parts)


def _schemas() -> str:
    return "\n\n".join(
        f"### {name}\n\n{schema['description']}\n\n"
        + _table(
            ("field", "type", "meaning"),
            [
                (f"`{field}`", _schema(value), value.get("description", ""))
                for field, value in schema["properties"].items()
            ],
        )
        for name, schema in openapi_document()["components"]["schemas"].items()
        if "properties" in schema
    )


def _schema(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = openapi_document()["components"]["schemas"][name]
        return _schema(target) if "enum" in target else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_schema(part) for part in schema["anyOf"])
    if "enum" in schema:
        is_short = len(schema["enum"]) <= _MAX_NAMED_VALUES
        return _code(schema["enum"]) if is_short else "the name of a column, also with `-` before it"
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return f"list of {_schema(schema['items'])}"
    if schema["type"] == "object":
        values = schema["additionalProperties"]
        return "object" if values is True else f"object of {_schema(values)} by name"
    bounds = f", {schema['minimum']:,} to {schema['maximum']:,}" if "minimum" in schema else ""
    return f"{schema.get('format', schema['type'])}{bounds}"


def _json_default(schema: dict[str, Any]) -> str:
    return f"`{str(schema['default']).lower()}`" if "default" in schema else ""


# Tables


def _metric_columns() -> str:
    rows = [(f"`{name}`", f"`{sql_type}`", meaning) for name, sql_type, meaning in metric_columns()]
    return _table(("column", "type", "definition"), rows)


def _upstream(table: str) -> Callable[[], str]:
    def columns() -> str:
        return _table(
            ("column", "accepted types", "meaning"),
            [(f"`{name}`", _code(accepted) or "any", meaning) for name, accepted, meaning in upstream_columns()[table]],
        )

    return columns


def _privileges() -> str:
    tables = list(dict.fromkeys(table for privileges in PRIVILEGES.values() for table in privileges))
    return _table(
        ("table", *(f"`--{purpose}`" for purpose in PRIVILEGES)),
        [
            (f"`{table}`", *(", ".join(privileges.get(table, ())) for privileges in PRIVILEGES.values()))
            for table in tables
        ],
    )


def _columns_of(table: str) -> Callable[[], str]:
    def columns() -> str:
        return _table(
            ("column", "type", "NULL", "key"),
            [
                (
                    f"`{column.name}`",
                    f"`{column.type.compile(postgresql.dialect()).lower()}`",
                    "yes" if column.nullable else "",
                    "primary key" if column.primary_key else "",
                )
                for column in metadata.tables[table].columns
            ],
        )

    return columns


# Products


def _products() -> str:
    rows = [(f"`{name}`", title, *meanings.values()) for name, title, meanings in products()]
    return _table(("name", "product", *(key.replace("_", " ") for key in products()[0][2])), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": _commands,
    "variables": _variables,
    "operations": _operations,
    "schemas": _schemas,
    "metric_columns": _metric_columns,
    "privileges": _privileges,
    "products": _products,
    **{table: _columns_of(table) for table in metadata.tables},
    **{table: _upstream(table) for table in upstream_columns()},
}
