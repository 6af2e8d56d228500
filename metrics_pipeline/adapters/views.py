"""Finds products in a database, and writes the statements that make their views."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from psycopg import sql
from sqlalchemy import Connection, text

from metrics_pipeline.adapters.product import Installed, Product
from metrics_pipeline.adapters.products import PRODUCTS
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.names import LOGS_TABLE, REGISTRY_TABLE

_COLUMNS = text("""
    SELECT current_setting('server_version_num')::int / 10000 AS server_version,
           nspname::text AS schema, relname::text AS table_name, attname::text AS column_name
      FROM pg_class
      JOIN pg_namespace ON pg_namespace.oid = relnamespace
      JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
     WHERE relname = ANY(:tables) AND relkind IN ('r', 'p', 'v', 'm', 'f')
       AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
     ORDER BY schema""")

_KEYS = text("""
    SELECT nspname::text AS schema, relname::text AS table_name, array_agg(attname::text) AS columns
      FROM pg_class
      JOIN pg_namespace ON pg_namespace.oid = relnamespace
      JOIN pg_index ON indrelid = pg_class.oid
      JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = ANY (indkey)
     WHERE relname = ANY(:tables) AND indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL
       AND indnkeyatts = indnatts
     GROUP BY 1, 2, indexrelid""")

_IS_READABLE = text("SELECT has_table_privilege(to_regclass(:table), 'SELECT')")


def find(connection: Connection, product: Product) -> list[Installed]:
    """The schemas that hold at least one of the product's tables, complete or not, in the order of their names."""
    tables = [*product.required, *product.optional]
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    version = 0
    for row in connection.execute(_COLUMNS, {"tables": tables}):
        found[row.schema][row.table_name].add(row.column_name)
        version = row.server_version
    keys: dict[str, dict[str, list[frozenset[str]]]] = defaultdict(lambda: defaultdict(list))
    for row in connection.execute(_KEYS, {"tables": tables}):
        keys[row.schema][row.table_name].append(frozenset(row.columns))
    return [
        Installed(schema, {table: frozenset(names) for table, names in columns.items()}, version, keys[schema])
        for schema, columns in found.items()
    ]


def missing(product: Product, installed: Installed) -> list[str]:
    """What the views need and the schema does not have, a phrase each."""
    phrases = []
    for table, names in product.required.items():
        if table not in installed.columns:
            phrases.append(f"table {table}")
        else:
            phrases += [f"column {table}.{name}" for name in names.split() if not installed.has(table, name)]
    return phrases


def optional(product: Product, installed: Installed) -> Iterator[tuple[str, bool]]:
    """Each column that only some versions have, and whether this one has it."""
    for table, names in product.optional.items():
        for name in names.split():
            yield f"{table}.{name}", installed.has(table, name)


def detect(connection: Connection) -> list[tuple[Product, Installed]]:
    """The products whose tables are complete, with each schema that holds them."""
    return [
        (product, installed)
        for product in PRODUCTS.values()
        for installed in find(connection, product)
        if not missing(product, installed)
    ]


def newest_migration(connection: Connection, product: Product, installed: Installed) -> str | None:
    """The name of the product's newest migration; None if it notes none or the role may not read it."""
    if product.migrations is None:
        return None
    table = installed.table(product.migrations.table)
    if not connection.scalar(_IS_READABLE, {"table": table}):
        return None
    newest: str | None = connection.exec_driver_sql(product.migrations.newest.format(table.replace("%", "%%"))).scalar()
    return newest


def require(connection: Connection, product: Product, schema: str | None) -> Installed:
    """The product in `schema`, or in the only schema that holds it.

    Raises PermanentError if it is not there, if a table or column that the views read is missing, or if several schemas
    hold it and none is named.
    """
    candidates = [each for each in find(connection, product) if schema is None or each.schema == schema]
    place = f"schema {schema}" if schema is not None else "this database"
    if not candidates:
        raise PermanentError(
            f"There is no table of {product.title} in {place}: looked for {', '.join(product.required)}. Name the "
            "product's own database in METRICS_DATABASE_URL, as a role that may see its tables."
        )
    complete = [each for each in candidates if not missing(product, each)]
    if not complete:
        gaps = "; ".join(f"schema {each.schema} lacks {', '.join(missing(product, each))}" for each in candidates)
        raise PermanentError(
            f"The tables of {product.title} in {place} are not those that the views read: {gaps}. It may be another "
            "version. Start from a draft: metrics-pipeline db adapt --from TABLE."
        )
    if len(complete) > 1:
        raise PermanentError(
            f"{product.title} is in several schemas: {', '.join(each.schema for each in complete)}. Name one: --source."
        )
    return complete[0]


def view_statements(schema: str, role: str, database: str, queries: Mapping[str, str]) -> list[str]:
    """The statements that make the views of `queries` in `schema`, and let `role` read them and make our tables there.

    Applied again, they replace the views. The role's search_path is set in the catalog rather than in its URL, because
    PgBouncer refuses the parameter `options`.
    """
    target, grantee = sql.Identifier(schema).as_string(), sql.Identifier(role).as_string()
    views = ", ".join(f"{target}.{name}" for name in queries)
    return [
        f"CREATE SCHEMA IF NOT EXISTS {target};",
        # Not OR REPLACE, which refuses a view whose columns differ, as after an upgrade of the product.
        *(
            statement
            for name, query in queries.items()
            for statement in (f"DROP VIEW IF EXISTS {target}.{name};", f"CREATE VIEW {target}.{name} AS\n{query};")
        ),
        f"GRANT USAGE, CREATE ON SCHEMA {target} TO {grantee};",
        f"GRANT SELECT ON {views} TO {grantee};",
        f"ALTER ROLE {grantee} IN DATABASE {sql.Identifier(database).as_string()} SET search_path = {target};",
    ]


def product_queries(product: Product, installed: Installed) -> dict[str, str]:
    """The queries of the two views of a product, by the view's name."""
    return {REGISTRY_TABLE: product.registry(installed), LOGS_TABLE: product.logs(installed)}
