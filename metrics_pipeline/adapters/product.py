"""What is declared of a product that keeps its agents' executions in PostgreSQL, and what a database has of it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql


@dataclass(frozen=True)
class Installed:
    """A product's tables in one database.

    schema: where they are. columns: the columns that exist, of each table that the product declares. server_version:
    PostgreSQL's major version. keys: the columns of each unique index of these tables.
    """

    schema: str
    columns: Mapping[str, frozenset[str]]
    server_version: int
    keys: Mapping[str, Collection[frozenset[str]]] = field(default_factory=dict)

    def table(self, name: str) -> str:
        """The table's name with its schema, quoted for a statement."""
        return sql.Identifier(self.schema, name).as_string()

    def has(self, table: str, column: str) -> bool:
        """Whether the table has the column, which some versions of the product lack."""
        return column in self.columns.get(table, ())

    def is_unique(self, table: str, *columns: str) -> bool:
        """Whether an index lets no two rows of the table have the same values in the columns."""
        return any(key <= set(columns) for key in self.keys.get(table, ()))

    def json(self, text: str) -> str:
        """The SQL that reads a text as jsonb.

        From PostgreSQL 16 on, a text that is not JSON is NULL. An older server cannot ask, and such a text makes its
        day unreadable until it is mended.
        """
        return f"CASE WHEN {text} IS JSON THEN {text}::jsonb END" if self.server_version >= 16 else f"({text})::jsonb"


@dataclass(frozen=True)
class Migrations:
    """The table in which a product notes which migrations its tables have, and the query of the newest one's name."""

    table: str
    newest: str


ALEMBIC = Migrations("alembic_version", "SELECT string_agg(version_num, ', ') FROM {}")
PRISMA = Migrations("_prisma_migrations", "SELECT migration_name FROM {} ORDER BY finished_at DESC NULLS LAST LIMIT 1")
TYPEORM = Migrations("migrations", "SELECT name FROM {} ORDER BY id DESC LIMIT 1")


@dataclass(frozen=True)
class Product:
    """How a product's tables are recognised and read.

    required: by table, the columns that the views read in every version, with spaces between them. optional: those that
    only some versions have.
    agent, execution, failure, user, cost: what stands for each in this product, a sentence for people. lacks: what the
    product does not log. registry, logs: the queries of agent_registry and agent_execution_logs. They leave out the
    optional columns that the product does not log. indexes: those without which each day reads whole tables, each as
    `table (expression)`. migrations: what says which version of the product made the tables.
    """

    name: str
    title: str
    required: Mapping[str, str]
    agent: str
    execution: str
    failure: str
    user: str
    cost: str
    lacks: str
    registry: Callable[[Installed], str]
    logs: Callable[[Installed], str]
    optional: Mapping[str, str] = field(default_factory=dict)
    indexes: Callable[[Installed], Sequence[str]] = lambda _installed: ()
    migrations: Migrations | None = None

    @property
    def meanings(self) -> dict[str, str]:
        """What is what in this product, for people."""
        return {
            "agent": self.agent,
            "execution": self.execution,
            "failure": self.failure,
            "user": self.user,
            "cost": self.cost,
            "not_logged": self.lacks,
        }


# A little more than 1000, so that a half also rounds away from zero where its binary number falls short of it. Below 25
# days that moves no number by more than 0.0003 ms, and the microsecond before a half is 0.001 ms away from it.
_ROUNDING = "1000.0000000001"


def milliseconds(interval: str) -> str:
    """The SQL of an interval in whole milliseconds, half away from zero, and as NULL if they do not fit an integer.

    By date_part(), in double precision: extract() gives numeric, which takes twice as long.
    """
    return f"CASE WHEN {interval} < '2147483.6475 s' THEN (date_part('epoch', {interval}) * {_ROUNDING})::integer END"


def seconds(number: str) -> str:
    """The SQL of seconds in double precision as milliseconds, like milliseconds().

    What is smaller than a half by less than a ten-trillionth of the number counts as the half.
    """
    return f"CASE WHEN {number} < 2147483.6475 THEN ({number} * {_ROUNDING})::integer END"


def integer(number: str) -> str:
    """The SQL of a whole number as an integer, and as NULL if it does not fit: as milliseconds, 25 days and more.

    Not with least(), which leaves NULL out and would turn an unknown number into the limit.
    """
    return f"CASE WHEN {number} <= 2147483647 THEN {number} END::integer"


def first_word(message: str) -> str:
    """The SQL of the class that an error's message begins with, as in `TimeoutError: no answer`."""
    return rf"substring({message} FROM '^\w+')"
