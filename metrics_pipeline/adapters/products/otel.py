"""Spans of OpenTelemetry in the Collector's table otel_traces: the same logs as of a file of traces."""

from metrics_pipeline.adapters.product import Installed, Product
from metrics_pipeline.logs import span_attributes as names

_TABLE = "otel_traces"
_STATUS_ERROR = "('Error', 'ERROR', 'STATUS_CODE_ERROR', '2')"


def _first(attributes: str, *keys: str) -> str:
    found = [f"nullif({attributes} ->> '{key}', '')" for key in keys]
    return f"coalesce({', '.join(found)})" if len(found) > 1 else found[0]


def _attribute(span: str, *keys: str) -> str:
    return _first(f'{span}."SpanAttributes"', *keys)


def _is_invocation(prefix: str = "") -> str:
    return f"""({prefix}"SpanAttributes" ->> '{names.OPERATION}') IN {names.INVOCATIONS}"""


def _tokens(span: str) -> str:
    read, written = (f"{_attribute(span, *keys)}::bigint" for keys in (names.INPUT_TOKENS, names.OUTPUT_TOKENS))
    return f"coalesce({read} + {written}, {read}, {written})"


def _reported(span: str) -> str:
    return f"{_tokens(span)} AS tokens, {_attribute(span, *names.MODEL)} AS model"


_TOKENS = "sum(tokens)"
_MODELS = "string_agg(DISTINCT model, ', ')"


def _calls(installed: Installed) -> str:
    """_TOKENS and _MODELS over the calls whose tokens count for the invocation s, unless the trace has to be walked.

    They report tokens, no span below them does, and no other invocation is between. Mostly they are just below the
    invocation, and no other span of the trace reports tokens, so reading the trace once is enough: half of the time of
    walking it. By the index in the order of the spans, because sorting them to find those that were sent twice took a
    fifth of the time.
    """

    def counted(aggregate: str) -> str:
        return f"CASE WHEN bool_or(NOT is_itself) THEN {aggregate} FILTER (WHERE NOT is_itself) ELSE {aggregate} END"

    return f"""(
           SELECT bool_or(NOT is_itself AND is_call IS NOT TRUE) OR count(*) > count(DISTINCT "SpanId") AS is_deep,
                  {counted(_TOKENS)} AS tokens,
                  {counted(_MODELS)} AS models
             FROM (SELECT c."SpanId", {_reported("c")}, c."SpanId" = s."SpanId" AS is_itself,
                          c."ParentSpanId" = s."SpanId" AND {_is_invocation("c.")} IS NOT TRUE AS is_call
                     FROM {installed.table(_TABLE)} AS c
                    WHERE c."TraceId" = s."TraceId" ORDER BY c."SpanId" OFFSET 0) AS of_trace
            WHERE tokens IS NOT NULL)"""


def _walk(installed: Installed, aggregate: str) -> str:
    """The `aggregate` over these calls in any trace."""
    return f"""(
           WITH RECURSIVE below AS (
               SELECT ARRAY[s."SpanId"] AS path, true AS is_own, {_reported("s")}
                UNION
               SELECT below.path || c."SpanId", below.is_own AND {_is_invocation("c.")} IS NOT TRUE, {_reported("c")}
                 FROM below
                 JOIN {installed.table(_TABLE)} AS c
                   ON c."TraceId" = s."TraceId" AND c."ParentSpanId" = below.path[cardinality(below.path)]
                WHERE c."SpanId" <> ALL (below.path)
           )
           SELECT {aggregate}
             FROM below
            WHERE is_own AND tokens IS NOT NULL
              AND NOT EXISTS (SELECT FROM below AS deeper
                               WHERE deeper.tokens IS NOT NULL AND cardinality(deeper.path) > cardinality(below.path)
                                 AND deeper.path[cardinality(below.path)] = below.path[cardinality(below.path)]))"""


def _user(installed: Installed) -> str:
    """The user of the nearest span that has one: often that of the request around the agent."""
    return f"""coalesce({_attribute("s", *names.USER)}, (
           WITH RECURSIVE above AS (
               SELECT ARRAY[s."SpanId"] AS path, s."ParentSpanId" AS parent, NULL AS user_id
                UNION
               SELECT above.path || p."SpanId", p."ParentSpanId", {_attribute("p", *names.USER)}
                 FROM above
                 JOIN {installed.table(_TABLE)} AS p ON p."TraceId" = s."TraceId" AND p."SpanId" = above.parent
                WHERE above.user_id IS NULL AND p."SpanId" <> ALL (above.path)
           )
           SELECT user_id FROM above WHERE user_id IS NOT NULL LIMIT 1))"""


def _registry(installed: Installed) -> str:
    agent = _attribute("s", *names.AGENT)
    return f"""\
SELECT DISTINCT {agent} AS id, {agent} AS name, 'active'::text AS status
  FROM {installed.table(_TABLE)} AS s
 WHERE {_is_invocation("s.")}"""


def _logs(installed: Installed) -> str:
    exception = f"""'$[*] ? (@.name == "exception").attributes."{names.EXCEPTION_TYPE}"'"""
    version = f"""s."ResourceAttributes" ->> '{names.SERVICE_VERSION}'"""
    return f"""\
SELECT s."TraceId" || '-' || s."SpanId" AS id,
       {_attribute("s", *names.AGENT)} AS agent_id,
       s."Timestamp" AS "timestamp",
       CASE WHEN s."StatusCode" IN {_STATUS_ERROR} THEN 'failed' ELSE 'success' END AS status,
       CASE WHEN s."Duration" BETWEEN 0 AND 2147483647499999 THEN ((s."Duration" + 500000) / 1000000)::integer END
           AS latency_ms,
       (CASE WHEN calls.is_deep THEN {_walk(installed, _TOKENS)} ELSE calls.tokens END)::bigint AS token_count,
       coalesce({_attribute("s", names.ERROR_TYPE)},
                jsonb_path_query_first(s."Events", {exception}) #>> '{{}}') AS error_type,
       {_user(installed)} AS user_id,
       CASE WHEN calls.is_deep THEN {_walk(installed, _MODELS)} ELSE calls.models END AS model,
       coalesce({_attribute("s", names.AGENT_VERSION)}, {version}) AS version,
       {_attribute("s", names.CONVERSATION)} AS conversation_id
  FROM {installed.table(_TABLE)} AS s
  LEFT JOIN LATERAL {_calls(installed)} AS calls ON true
 WHERE {_is_invocation("s.")}"""


PRODUCT = Product(
    name="otel",
    title="OpenTelemetry's spans in PostgreSQL",
    required={
        _TABLE: ("Timestamp TraceId SpanId ParentSpanId SpanAttributes ResourceAttributes Duration StatusCode Events")
    },
    agent="the agent's or the workflow's name, otherwise the agent's id",
    execution="a span of the operation invoke_agent or invoke_workflow",
    failure="the span's status is an error; the error type is error.type, otherwise the type of its first exception",
    user="user.id or enduser.id of the span, otherwise of the nearest span around it",
    cost="not logged",
    lacks="cost, human interventions; an agent without any span is not known",
    registry=_registry,
    logs=_logs,
    indexes=lambda installed: (
        f'{installed.table(_TABLE)} ("Timestamp") WHERE {_is_invocation()}',
        f'{installed.table(_TABLE)} ("TraceId", "SpanId")',
    ),
)
