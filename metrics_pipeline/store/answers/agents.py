"""Every agent that the registry or the stored metrics know."""

from sqlalchemy import Connection, text

from metrics_pipeline.store.answers.rows import Page, as_array

# Walks the primary key from agent to agent: for a DISTINCT, PostgreSQL would read all rows. Looks the last active day
# up for the agents of the page only.
_PAGE = text(f"""
WITH RECURSIVE stored(agent_id) AS (
    (SELECT agent_id FROM agent_performance_metrics ORDER BY agent_id LIMIT 1)
    UNION ALL
    SELECT (SELECT next.agent_id FROM agent_performance_metrics AS next
            WHERE next.agent_id > stored.agent_id ORDER BY next.agent_id LIMIT 1)
    FROM stored WHERE stored.agent_id IS NOT NULL
), known AS MATERIALIZED (
    SELECT coalesce(registered.id, stored.agent_id) AS agent_id, registered.name, registered.status,
           acknowledged.acknowledged_at, acknowledged.reason AS acknowledged_reason
    FROM (SELECT id::text AS id, name, status::text AS status FROM agent_registry) AS registered
    FULL JOIN (SELECT agent_id FROM stored WHERE agent_id IS NOT NULL) AS stored ON stored.agent_id = registered.id
    LEFT JOIN metric_acknowledged_agents AS acknowledged
           ON acknowledged.agent_id = coalesce(registered.id, stored.agent_id)
), page AS MATERIALIZED (
    SELECT * FROM known ORDER BY agent_id LIMIT :limit OFFSET :offset
)
SELECT {
    as_array('''
        SELECT page.agent_id, page.name, page.status,
               (SELECT metric_date FROM agent_performance_metrics AS metrics
                WHERE metrics.agent_id = page.agent_id AND total_executions > 0
                ORDER BY metric_date DESC LIMIT 1) AS last_active_date,
               page.acknowledged_at, page.acknowledged_reason
        FROM page ORDER BY page.agent_id''')
} AS rows,
       (SELECT count(*) FROM known) AS total,
       -- The last active days of agents on other pages are those of the days as the ledger has them.
       md5(concat((SELECT string_agg(known::text, ',' ORDER BY agent_id) FROM known),
                  (SELECT string_agg(concat(metric_date, ' ', xmin), ',' ORDER BY metric_date)
                   FROM metric_day_ledger))) AS version""")


def agents_page(connection: Connection, *, limit: int, offset: int) -> Page:
    """At most `limit` agents in the order of their ids: agent_id, name, status, last_active_date, acknowledged_at, and
    acknowledged_reason.

    name and status are null for an agent that is no longer registered; last_active_date is the newest stored day with
    executions; the acknowledgement is null for an agent that has none.
    """
    return Page(**connection.execute(_PAGE, {"limit": limit, "offset": offset}).mappings().one())
