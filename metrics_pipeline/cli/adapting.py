"""`db adapt`: prints the views that make the tables of another product keep the contract."""

import textwrap
from collections.abc import Sequence
from typing import Annotated

import typer
from psycopg import sql
from sqlalchemy import Connection, text

from metrics_pipeline.adapters import views
from metrics_pipeline.adapters.draft import draft_views
from metrics_pipeline.adapters.product import Product
from metrics_pipeline.adapters.products import PRODUCTS
from metrics_pipeline.cli.tables import Column, Format, FormatOption, printable, printable_sql, show
from metrics_pipeline.cli.usage import not_one_of
from metrics_pipeline.cli.values import storable
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.privileges import require_name
from metrics_pipeline.settings import Settings

_WIDTH = 100


def adapt(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=f"One of {', '.join(PRODUCTS)}.")] = None,
    *,
    known: Annotated[
        bool, typer.Option("--list", help="Say for each product what is an agent, an execution, a failure, a user.")
    ] = False,
    detect: Annotated[
        bool, typer.Option("--detect", help="Say which products this database holds, in which version.")
    ] = False,
    table: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TABLE", callback=storable, help="Draft the views over another table, to correct."
        ),
    ] = None,
    agents: Annotated[
        str | None, typer.Option(metavar="TABLE", callback=storable, help="With --from: the table of the agents.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="SCHEMA", help="Where the product's tables are.", show_default="found")
    ] = None,
    schema: Annotated[str, typer.Option(metavar="SCHEMA", help="Where the views and our tables go.")] = "metrics",
    role: Annotated[str, typer.Option(metavar="ROLE", help="The role of the pipeline.")] = "metrics_pipeline",
    form: FormatOption = Format.TABLE,
) -> None:
    """Prints the SQL that makes the tables of a product readable for the pipeline. Changes nothing itself.

    The owner of the product's tables applies it: two views in a schema of their own, and grants for the pipeline's
    role. METRICS_DATABASE_URL names the product's database. The pipeline never deletes through these views.

    **Examples**

    - `metrics-pipeline db adapt --list`
    - `metrics-pipeline db adapt litellm | psql …`
    - `metrics-pipeline db adapt --from logs.runs --agents logs.agents > draft.sql`
    """
    if sum((name is not None, known, detect, table is not None)) != 1:
        raise typer.BadParameter("Give the NAME of a product, or one of --list, --detect and --from TABLE.")
    if agents is not None and table is None:
        raise typer.BadParameter("--agents goes with --from TABLE.")
    if known:
        _show_known(form)
        return
    if name is not None and name not in PRODUCTS:
        raise typer.BadParameter(f"{not_one_of(name, PRODUCTS)} For another table: --from TABLE.", param_hint="'NAME'")
    require_name(role, "a role")
    require_name(schema, "a schema")
    with open_database(Settings.from_environment()).connect() as connection:
        if detect:
            _show_detected(connection, form)
            return
        database = connection.scalar(text("SELECT current_database()::text"))
        if name is not None:
            product = PRODUCTS[name]
            installed = views.require(connection, product, source)
            comments, queries = _about(product), views.product_queries(product, installed)
            indexes = product.indexes(installed)
        else:
            draft = draft_views(connection, str(table), agents, schema)
            comments, queries, indexes = _about_draft(str(table), agents, draft.notes), draft.queries, ()
    if indexes:
        comments += [
            "Without an index, each day reads the whole table. It belongs to the product; build it apart from this:",
            *(f"CREATE INDEX CONCURRENTLY ON {index};" for index in indexes),
        ]
    comments += [
        f"The role must exist: CREATE ROLE {sql.Identifier(role).as_string()} LOGIN PASSWORD '...';",
        f"Afterwards, as {role}: metrics-pipeline db upgrade, then metrics-pipeline db check.",
    ]
    statements = views.view_statements(schema, role, str(database), queries)
    # One transaction, because psql continues after an error.
    lines = [*_commented(comments), "BEGIN;", "SET LOCAL client_min_messages = warning;", *statements, "COMMIT;"]
    print(printable_sql("\n".join(lines)))


def _commented(paragraphs: Sequence[str]) -> list[str]:
    return [
        f"-- {line}"
        for paragraph in paragraphs
        for line in textwrap.wrap(printable(paragraph), _WIDTH, subsequent_indent="  ", break_long_words=False)
    ]


def _about(product: Product) -> list[str]:
    return [
        f"Views over the tables of {product.title} for metrics-pipeline. Apply as the tables' owner.",
        *(f"{heading.replace('_', ' ')}: {sentence}" for heading, sentence in product.meanings.items()),
    ]


def _about_draft(table: str, agents: str | None, notes: Sequence[str]) -> list[str]:
    comments = [
        f"A draft of views over {table} for metrics-pipeline. Correct it, then apply it as the table's owner.",
        *notes,
    ]
    if agents is None:
        comments.append(
            "Every agent that has a log counts as active. If there is a table of agents, name it: --agents."
        )
    return comments


def _show_known(form: Format) -> None:
    rows = [{"name": product.name, "product": product.title, **product.meanings} for product in PRODUCTS.values()]
    if form is not Format.TABLE:
        show("Products", [], rows, form)
        return
    for product in PRODUCTS.values():
        typer.echo(f"{product.name} ({product.title})")
        for heading, sentence in product.meanings.items():
            line = f"  {heading.replace('_', ' ')}: {sentence}"
            typer.echo(textwrap.fill(line, 78, subsequent_indent="      "))


def _show_detected(connection: Connection, form: Format) -> None:
    found = views.detect(connection)
    rows = [
        {
            "name": product.name,
            "product": product.title,
            "schema": installed.schema,
            "newest_migration": views.newest_migration(connection, product, installed),
            "has": ", ".join(column for column, is_there in views.optional(product, installed) if is_there),
            "lacks": ", ".join(column for column, is_there in views.optional(product, installed) if not is_there),
        }
        for product, installed in found
    ]
    if not rows and form is Format.TABLE:
        raise PermanentError(
            f"No product is recognised in this database. Known: {', '.join(PRODUCTS)}. For another table: --from TABLE."
        )
    columns = [
        Column("name", is_text=True),
        Column("product", is_text=True),
        Column("schema", is_text=True),
        Column("newest_migration", "newest migration", is_text=True, rank=1),
        Column("lacks", "its version lacks", is_folded=True),
        Column("has", "its version has", is_folded=True, rank=2),
    ]
    show("Products in this database", columns, rows, form)
