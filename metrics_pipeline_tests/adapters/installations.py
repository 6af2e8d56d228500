"""Small installations of the products: the tables that the views read, a few rows, and the logs that these rows are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Installation:
    """A product's tables and rows, and what the views must say of them.

    logs: id, agent, time in UTC, status, latency_ms, token_count, cost_usd, error_type, user, in the order of the ids.
    agents: id, name, status.
    """

    statements: str
    agents: list[tuple[str, str, str]]
    logs: list[tuple[str | None, ...]]


INSTALLATIONS = {
    "litellm": Installation(
        """
        CREATE TABLE "LiteLLM_SpendLogs" (request_id text PRIMARY KEY, api_key text NOT NULL, spend float8 NOT NULL,
            total_tokens int NOT NULL, "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL,
            request_duration_ms int, model text NOT NULL, "user" text, metadata jsonb, team_id text, end_user text,
            status text, agent_id text);
        CREATE TABLE "LiteLLM_AgentsTable" (agent_id text PRIMARY KEY, agent_name text NOT NULL);
        CREATE TABLE "LiteLLM_VerificationToken" (token text PRIMARY KEY, key_alias text, blocked boolean);
        INSERT INTO "LiteLLM_AgentsTable" VALUES ('a1', 'planner');
        INSERT INTO "LiteLLM_VerificationToken" VALUES ('88dc28d0f030c55ed4ab77ed8faf098196cb1c05', NULL, NULL),
            ('k2', 'batch', true);
        INSERT INTO "LiteLLM_SpendLogs" VALUES
            ('r1', 'k2', 0.1 + 0.2, 30, '2026-11-20 10:00', '2026-11-20 10:00:02.5', 2100, 'm', 'u', '{}', 't', 'e',
             'success', 'a1'),
            ('r2', 'k2', 0, 7, '2026-11-20 11:00', '2026-11-20 11:00:00.4', NULL, 'm', 'u', '{"error_information":
             {"error_class": "RateLimitError"}}', NULL, '', 'failure', ''),
            ('r3', 'k2', 4.5e-10, 0, '2026-11-20 12:00', '2026-11-20 12:00:01', 900, '', '', '{"status": "failure"}',
             NULL, NULL, NULL, NULL);
        """,
        [
            ("88dc28d0f030c55ed4ab77ed8faf098196cb1c05", "88dc28d0", "active"),
            ("a1", "planner", "active"),
            ("k2", "batch", "blocked"),
        ],
        [
            ("r1", "a1", "2026-11-20 10:00:00", "success", "2100", "30", "0.300000000", None, "e"),
            ("r2", "k2", "2026-11-20 11:00:00", "failed", "400", "7", "0.000000000", "RateLimitError", "u"),
            ("r3", "k2", "2026-11-20 12:00:00", "failed", "900", "0", "0.000000000", None, None),
        ],
    ),
    "phoenix": Installation(
        """
        CREATE TABLE projects (id int PRIMARY KEY, name varchar NOT NULL);
        CREATE TABLE traces (id int PRIMARY KEY, project_rowid int NOT NULL, trace_id varchar NOT NULL);
        CREATE TABLE spans (id int PRIMARY KEY, trace_rowid int NOT NULL, parent_id varchar, start_time timestamptz,
            end_time timestamptz, attributes jsonb, events jsonb, status_code varchar,
            cumulative_llm_token_count_prompt int, cumulative_llm_token_count_completion int);
        CREATE TABLE span_costs (id int PRIMARY KEY, trace_rowid int NOT NULL, total_cost float8);
        INSERT INTO projects VALUES (7, 'support');
        INSERT INTO traces VALUES (1, 7, 't1'), (2, 7, 't2');
        INSERT INTO spans VALUES
            (10, 1, NULL, '2026-11-20 10:00+01', '2026-11-20 10:00:01.2345+01', '{"user": {"id": "u1"}}', '[]', 'OK',
             100, 20),
            (11, 1, 's10', '2026-11-20 10:00+01', '2026-11-20 10:00:01+01', '{}', '[]', 'ERROR', 100, 20),
            (12, 2, NULL, '2026-11-20 23:59:59+00', '2026-11-21 00:00:01+00', '{}',
             '[{"name": "log"}, {"name": "exception", "attributes": {"exception": {"type": "TimeoutError"}}}]',
             'ERROR', 3, 4);
        INSERT INTO span_costs VALUES (1, 1, 0.1), (2, 1, 0.2), (3, 1, NULL);
        """,
        [("7", "support", "active")],
        [
            ("10", "7", "2026-11-20 09:00:00", "success", "1235", "120", "0.300000000", None, "u1"),
            ("12", "7", "2026-11-20 23:59:59", "failed", "2000", "7", None, "TimeoutError", None),
        ],
    ),
    "mlflow": Installation(
        """
        CREATE TABLE experiments (experiment_id int PRIMARY KEY, name varchar(256), lifecycle_stage varchar(32));
        CREATE TABLE trace_info (request_id varchar(50) PRIMARY KEY, experiment_id int NOT NULL, timestamp_ms bigint,
            execution_time_ms bigint, status varchar(50));
        CREATE TABLE trace_request_metadata (key varchar(250), value varchar(8000), request_id varchar(50));
        INSERT INTO experiments VALUES (1, 'rag', 'active'), (2, 'old', 'deleted');
        INSERT INTO trace_info VALUES ('t1', 1, 1763596800123, 3000000000, 'OK'),
            ('t2', 1, 1763596801000, NULL, 'ERROR'), ('t3', 2, 1763596802000, 5, 'IN_PROGRESS');
        INSERT INTO trace_request_metadata VALUES ('mlflow.trace.tokenUsage', '{"total_tokens": 42}', 't1'),
            ('mlflow.trace.cost', '{"total_cost": 1.25e-05}', 't1'), ('mlflow.trace.user', 'ann', 't1'),
            ('mlflow.trace.cost', 'not json', 't2');
        """,
        [("1", "rag", "active"), ("2", "old", "deleted")],
        [
            ("t1", "1", "2025-11-20 00:00:00.123", "success", None, "42", "0.000012500", None, "ann"),
            ("t2", "1", "2025-11-20 00:00:01", "failed", None, None, None, None, None),
            ("t3", "2", "2025-11-20 00:00:02", "in_progress", "5", None, None, None, None),
        ],
    ),
    "dify": Installation(
        """
        CREATE TABLE apps (id text PRIMARY KEY, name varchar(255), status varchar(255));
        CREATE TABLE messages (id text PRIMARY KEY, app_id text, message_tokens int, answer_tokens int,
            provider_response_latency float8, total_price numeric(10,7), currency varchar(255), status varchar(255),
            error text, from_end_user_id text, from_account_id text, created_at timestamp, workflow_run_id text,
            invoke_from varchar(255));
        CREATE TABLE workflow_runs (id text PRIMARY KEY, tenant_id text, app_id text, workflow_id text,
            triggered_from varchar(255), status varchar(255), error text, elapsed_time float8, total_tokens bigint,
            created_by text, created_at timestamp);
        CREATE TABLE workflow_node_executions (id text PRIMARY KEY, tenant_id text, app_id text, workflow_id text,
            triggered_from varchar(255), workflow_run_id text, execution_metadata text);
        INSERT INTO apps VALUES ('a1', 'chat', 'normal'), ('a2', 'flow', 'archived');
        INSERT INTO messages VALUES
            ('m1', 'a1', 10, 5, 1.2345, 0.0000123, 'USD', 'normal', NULL, 'e1', NULL, '2026-11-20 08:00', NULL, 'api'),
            ('m2', 'a1', 1, 0, 0, 3, 'EUR', 'error', 'InvokeRateLimitError: slow', NULL, 'c1', '2026-11-20 09:00', NULL,
             NULL),
            ('m3', 'a1', 1, 0, 0, 3, 'USD', 'normal', NULL, NULL, 'c1', '2026-11-20 09:00', NULL, 'debugger'),
            ('m4', 'a2', 1, 0, 0, 3, 'USD', 'normal', NULL, NULL, 'c1', '2026-11-20 09:00', 'w1', 'api');
        INSERT INTO workflow_runs VALUES
            ('w1', 't', 'a2', 'f', 'app-run', 'partial-succeeded', NULL, 0.5, 77, 'e2', '2026-11-20 09:00'),
            ('w2', 't', 'a2', 'f', 'app-run', 'failed', 'boom', 61, 1, 'e2', '2026-11-20 10:00'),
            ('w3', 't', 'a2', 'f', 'debugging', 'failed', 'boom', 61, 1, 'e2', '2026-11-20 10:00'),
            ('w4', 't', 'a2', 'f', 'app-run', 'stopped', NULL, 0, 0, 'e2', '2026-11-20 11:00');
        INSERT INTO workflow_node_executions VALUES
            ('n1', 't', 'a2', 'f', 'workflow-run', 'w1', '{"total_price": "0.1", "currency": "USD"}'),
            ('n2', 't', 'a2', 'f', 'workflow-run', 'w1', '{"total_price": "0.2", "currency": "USD"}'),
            ('n3', 't', 'a2', 'f', 'workflow-run', 'w1', '{"total_price": "9", "currency": "RMB"}'),
            ('n4', 't', 'a2', 'f', 'workflow-run', 'w1', '{cut off');
        """,
        [("a1", "chat", "active"), ("a2", "flow", "archived")],
        [
            ("m1", "a1", "2026-11-20 08:00:00", "success", "1235", "15", "0.0000123", None, "e1"),
            ("m2", "a1", "2026-11-20 09:00:00", "failed", "0", "1", None, "InvokeRateLimitError", "c1"),
            ("w1", "a2", "2026-11-20 09:00:00", "success", "500", "77", "0.3", None, "e2"),
            ("w2", "a2", "2026-11-20 10:00:00", "failed", "61000", "1", None, "boom", "e2"),
            ("w4", "a2", "2026-11-20 11:00:00", "stopped", "0", "0", None, None, "e2"),
        ],
    ),
    "n8n": Installation(
        """
        CREATE TABLE workflow_entity (id varchar(36) PRIMARY KEY, name varchar(128), active boolean);
        CREATE TABLE execution_entity (id int PRIMARY KEY, mode varchar, status varchar, "startedAt" timestamptz(3),
            "stoppedAt" timestamptz(3), "workflowId" varchar(36));
        CREATE TABLE execution_metadata ("executionId" int, key varchar(255), value text);
        INSERT INTO workflow_entity VALUES ('w1', 'mail', true), ('w2', 'old', false);
        INSERT INTO execution_entity VALUES
            (1, 'webhook', 'success', '2026-11-20 23:59:59Z', '2026-11-21 00:00:00.25Z', 'w1'),
            (2, 'trigger', 'crashed', NULL, '2026-11-20 10:00Z', 'w2'),
            (3, 'manual', 'success', '2026-11-20 10:00Z', '2026-11-20 10:00Z', 'w1'),
            (4, 'trigger', 'running', '2026-11-20 10:00Z', NULL, 'w1');
        INSERT INTO execution_metadata VALUES (1, 'user_id', 'u1'), (1, 'order', '5');
        """,
        [("w1", "mail", "active"), ("w2", "old", "inactive")],
        [
            ("1", "w1", "2026-11-21 00:00:00.25", "success", "1250", None, None, None, "u1"),
            ("2", "w2", "2026-11-20 10:00:00", "failed", None, None, None, "crashed", None),
            ("4", "w1", None, "running", None, None, None, None, None),
        ],
    ),
    "flowise": Installation(
        """
        CREATE TABLE chat_flow (id text PRIMARY KEY, name varchar);
        CREATE TABLE execution (id int PRIMARY KEY, "executionData" text, state varchar, "agentflowId" text,
            "sessionId" varchar, "createdDate" timestamp, "updatedDate" timestamp);
        INSERT INTO chat_flow VALUES ('f1', 'flow');
        INSERT INTO execution VALUES
            (1, '[{"data": {"output": {"usageMetadata": {"total_tokens": 5}}}}, {"data": {}}, {"data": {"output":
             {"usageMetadata": {"total_tokens": 6}}}}]', 'FINISHED', 'f1', 's1',
             '2026-11-20 10:00', '2026-11-20 10:00:01.5'),
            (2, '{broken', 'TIMEOUT', 'f1', 's2', '2026-11-20 11:00',
             '2026-11-20 11:00'),
            (3, '[]', 'INPROGRESS', 'f1', 's2', '2026-11-20 12:00',
             '2026-11-20 12:00');
        """,
        [("f1", "flow", "active")],
        [
            (
                "1",
                "f1",
                "2026-11-20 10:00:00",
                "success",
                "1500",
                "11",
                None,
                None,
                "s1",
            ),
            (
                "2",
                "f1",
                "2026-11-20 11:00:00",
                "failed",
                "0",
                None,
                None,
                "timeout",
                "s2",
            ),
            (
                "3",
                "f1",
                "2026-11-20 12:00:00",
                "inprogress",
                "0",
                None,
                None,
                None,
                "s2",
            ),
        ],
    ),
    "langfuse2": Installation(
        """
        CREATE TYPE "ObservationLevel" AS ENUM ('DEFAULT', 'ERROR');
        CREATE TABLE projects (id text PRIMARY KEY, name text);
        CREATE TABLE traces (id text PRIMARY KEY, "timestamp" timestamp(3), name text, user_id text, project_id text);
        CREATE TABLE observations (id text PRIMARY KEY, trace_id text, project_id text, start_time timestamp(3),
            end_time timestamp(3), level "ObservationLevel", total_tokens int, calculated_total_cost numeric(65,30));
        INSERT INTO projects VALUES ('p1', 'shop');
        INSERT INTO traces VALUES ('t1', '2026-11-20 10:00', 'answer', 'u1', 'p1'),
            ('t2', '2026-11-20 11:00', NULL, NULL, 'p1');
        INSERT INTO observations VALUES
            ('o1', 't1', 'p1', '2026-11-20 10:00:00.1', '2026-11-20 10:00:03', 'DEFAULT', 10, 0.0000000004),
            ('o2', 't1', 'p1', '2026-11-20 10:00:01', '2026-11-20 10:00:02', 'ERROR', 5, 0.0000000002),
            ('o3', 't1', 'p2', '2026-11-20 10:00:01', '2026-11-20 11:00:02', 'ERROR', 5, 100);
        """,
        [("p1/", "shop/", "active"), ("p1/answer", "shop/answer", "active")],
        [
            ("t1", "p1/answer", "2026-11-20 10:00:00", "failed", "2900", "15", "0.000000001", "error", "u1"),
            ("t2", "p1/", "2026-11-20 11:00:00", "success", None, None, None, None, None),
        ],
    ),
    "langgraph": Installation(
        """
        CREATE TABLE assistant (assistant_id text PRIMARY KEY, name text);
        CREATE TABLE runs (run_id text PRIMARY KEY, assistant_id text, status text, error_message text, user_id text,
            created_at timestamptz, updated_at timestamptz);
        INSERT INTO assistant VALUES ('a1', 'graph');
        INSERT INTO runs VALUES
            ('r1', 'a1', 'success', NULL, 'u1', '2026-11-20 10:00Z', '2026-11-20 10:00:00.0015Z'),
            ('r2', 'a1', 'error', 'ValueError: x', 'u1', '2026-11-20 11:00Z', '2026-11-20 11:00:01Z'),
            ('r3', 'a1', 'timeout', NULL, 'u2', '2026-11-20 12:00Z', '2026-11-20 12:01Z'),
            ('r4', 'a1', 'interrupted', NULL, 'u2', '2026-11-20 13:00Z', '2026-11-20 15:01Z');
        """,
        [("a1", "graph", "active")],
        [
            ("r1", "a1", "2026-11-20 10:00:00", "success", "2", None, None, None, "u1"),
            ("r2", "a1", "2026-11-20 11:00:00", "failed", "1000", None, None, "ValueError", "u1"),
            ("r3", "a1", "2026-11-20 12:00:00", "failed", "60000", None, None, "timeout", "u2"),
            ("r4", "a1", "2026-11-20 13:00:00", "interrupted", None, None, None, None, "u2"),
        ],
    ),
    "openwebui": Installation(
        """
        CREATE TABLE model (id text PRIMARY KEY, name text, is_active boolean);
        CREATE TABLE chat_message (id text PRIMARY KEY, user_id text, role text, model_id text, done boolean,
            error json, usage json, created_at bigint, updated_at bigint);
        INSERT INTO model VALUES ('m1', 'helper', true), ('m2', 'old', false);
        INSERT INTO chat_message VALUES
            ('c1', 'u1', 'assistant', 'm1', true, NULL, '{"prompt_tokens": 3, "completion_tokens": 4}', 1763596800,
             1763596803),
            ('c2', 'u1', 'user', 'm1', true, NULL, NULL, 1763596800, 1763596803),
            ('c3', 'u2', 'assistant', 'm2', false, '{"content": "boom"}', '{"input_tokens": 5}', 1763596801,
             1763596801),
            ('c4', 'u2', 'assistant', 'm2', false, 'null', NULL, 1763596802, 1763596802);
        """,
        [("m1", "helper", "active"), ("m2", "old", "inactive")],
        [
            ("c1", "m1", "2025-11-20 00:00:00", "success", "3000", "7", None, None, "u1"),
            ("c3", "m2", "2025-11-20 00:00:01", "failed", "0", "5", None, "error", "u2"),
            ("c4", "m2", "2025-11-20 00:00:02", "running", "0", "0", None, None, "u2"),
        ],
    ),
    "otel": Installation(
        """
        CREATE TABLE otel_traces ("Timestamp" timestamp NOT NULL, "TraceId" text, "SpanId" text, "ParentSpanId" text,
            "SpanAttributes" jsonb, "ResourceAttributes" jsonb, "Duration" bigint, "StatusCode" text, "Events" jsonb);
        INSERT INTO otel_traces VALUES
            ('2026-11-20 10:00', 't1', 's1', '', '{"user.id": "u1"}', '{}', 9000000000, 'Unset', '[]'),
            ('2026-11-20 10:00', 't1', 's2', 's1', '{"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name":
             "planner"}', '{"service.version": "1.4"}', 1234500000, 'Ok', '[]'),
            ('2026-11-20 10:00', 't1', 's3', 's2', '{"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 5,
             "gen_ai.usage.output_tokens": 10, "gen_ai.request.model": "m"}', '{}', 1000, 'Ok', '[]'),
            ('2026-11-20 11:00', 't2', 's1', '', '{"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name":
             "nightly"}', NULL, 499999, 'Error', '[{"name": "exception", "attributes": {"exception.type":
             "ValueError"}}]'),
            ('2026-11-20 12:00', 't3', 's1', '', '{"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.id": "a7",
             "error.type": "timeout"}', '{}', -1763596800000000000, 'Error', '["{…, exception, {…}}"]');
        INSERT INTO otel_traces SELECT * FROM otel_traces WHERE "SpanId" = 's3';
        """,
        [("a7", "a7", "active"), ("nightly", "nightly", "active"), ("planner", "planner", "active")],
        [
            ("t1-s2", "planner", "2026-11-20 10:00:00", "success", "1235", "15", None, None, "u1"),
            ("t2-s1", "nightly", "2026-11-20 11:00:00", "failed", "0", None, None, "ValueError", None),
            ("t3-s1", "a7", "2026-11-20 12:00:00", "failed", None, None, None, "timeout", None),
        ],
    ),
}
