"""Every agent that the registry or the stored metrics know."""

from sqlalchemy import Connection, text

from metrics_pipeline.store.answers.rows import RowForm, Rows, as_array

#: The columns of a row, in this order.
COLUMNS = ("agent_id", "name", "status", "last_active_date")

# The primary key is walked from agent to agent: PostgreSQL would read all rows for a DISTINCT. The last active day is
# looked up for the agents of the page only.
_SELECT = """
WITH RECURSIVE stored(agent_id) AS (
    (SELECT agent_id FROM agent_performance_metrics ORDER BY agent_id LIMIT 1)
    UNION ALL
    SELECT (SELECT next.agent_id FROM agent_performance_metrics AS next
            WHERE next.agent_id > stored.agent_id ORDER BY next.agent_id LIMIT 1)
    FROM stored WHERE stored.agent_id IS NOT NULL
), page AS MATERIALIZED (
    SELECT coalesce(registered.id, stored.agent_id) AS agent_id, registered.name, registered.status
    FROM (SELECT id::text AS id, name, status::text AS status FROM agent_registry) AS registered
    FULL JOIN (SELECT agent_id FROM stored WHERE agent_id IS NOT NULL) AS stored ON stored.agent_id = registered.id
    ORDER BY 1 LIMIT :limit OFFSET :offset
)
SELECT page.agent_id, page.name, page.status,
       (SELECT metric_date FROM agent_performance_metrics AS metrics
        WHERE metrics.agent_id = page.agent_id AND total_executions > 0
        ORDER BY metric_date DESC LIMIT 1) AS last_active_date
FROM page ORDER BY page.agent_id"""

_STATEMENTS = {form: text(f"SELECT {as_array(_SELECT, form)}") for form in RowForm}


def agents_page(connection: Connection, *, limit: int, offset: int, form: RowForm) -> Rows:
    """At most `limit` agents in the order of their ids.

    name and status are NULL for an agent that is registered no more; last_active_date is the newest stored day with
    executions.
    """
    rows: Rows = connection.scalars(_STATEMENTS[form], {"limit": limit, "offset": offset}).one()
    return rows
