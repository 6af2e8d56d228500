"""Many executions for the tables of INSTALLATIONS: ten days from 2026-11-15, with the products' own indexes."""

#: By product: the statements, with the number of executions as {n}. A millisecond of {step} is between two of them.
ROWS = {
    "litellm": """
        CREATE INDEX ON "LiteLLM_SpendLogs" ("startTime");
        INSERT INTO "LiteLLM_AgentsTable" SELECT 'agent' || i, 'agent ' || i FROM generate_series(1, 8) AS i;
        INSERT INTO "LiteLLM_VerificationToken" SELECT 'key' || i, NULL, i = 12 FROM generate_series(1, 12) AS i;
        INSERT INTO "LiteLLM_SpendLogs"
        SELECT 'request' || i, 'key' || 1 + i % 12,
               CASE WHEN i % 29 = 3 THEN 0 ELSE i % 1000 * 1.5e-06 + i % 777 * 6.1e-07 END, i % 3000, t,
               t + i * 37 % 20000 * interval '1 ms', i * 37 % 20000, 'gpt-x', 'user-' || i % 40,
               CASE WHEN i % 29 = 3 THEN jsonb_build_object('status', 'failure', 'error_information',
                    jsonb_build_object('error_class', (ARRAY['RateLimitError', 'Timeout'])[1 + i % 2]))
                    ELSE '{{"status": "success"}}' END,
               'team', 'end-' || i % 900,
               CASE WHEN i % 29 = 3 THEN 'failure' WHEN i % 50 > 0 THEN 'success' END,
               CASE WHEN i % 4 = 0 THEN 'agent' || 1 + i % 8 END
          FROM (SELECT i, timestamp '2026-11-15' + i * interval '{step} ms' AS t FROM generate_series(0, {n} - 1) AS i)
               AS made;""",
    "phoenix": """
        CREATE INDEX ON spans (start_time);
        CREATE INDEX ON spans (trace_rowid);
        CREATE INDEX ON span_costs (trace_rowid);
        INSERT INTO projects SELECT 10 + i, 'project ' || i FROM generate_series(1, 20) AS i;
        INSERT INTO traces SELECT 100 + i, 11 + i % 20, 'trace' || i FROM generate_series(0, {n} - 1) AS i;
        INSERT INTO spans
        SELECT 1000 + i * 3 + k, 100 + i, CASE WHEN k > 0 THEN 'parent' END, t, t + i % 9000 * interval '1 ms',
               CASE WHEN k = 0 THEN jsonb_build_object('user', jsonb_build_object('id', 'u' || i % 500))
                    ELSE '{{}}' END,
               CASE WHEN i % 31 > 0 THEN '[]'
                    ELSE '[{{"name": "exception", "attributes": {{"exception": {{"type": "Timeout"}}}}}}]' END::jsonb,
               CASE WHEN i % 31 = 0 THEN 'ERROR' ELSE 'OK' END, i % 1000, i % 300
          FROM (SELECT i, timestamptz '2026-11-15 00:00Z' + i * interval '{step} ms' AS t
                  FROM generate_series(0, {n} - 1) AS i) AS made, generate_series(0, 2) AS k;
        INSERT INTO span_costs SELECT 10 + i, 100 + i, i % 999 * 3.1e-06 FROM generate_series(0, {n} - 1) AS i;""",
    "mlflow": """
        ALTER TABLE trace_request_metadata ADD PRIMARY KEY (request_id, key);
        CREATE INDEX ON trace_info (experiment_id, timestamp_ms);
        INSERT INTO experiments SELECT 10 + i, 'experiment ' || i, 'active' FROM generate_series(1, 20) AS i;
        INSERT INTO trace_info SELECT 'tr-' || i, 11 + i % 20,
               extract(epoch FROM timestamptz '2026-11-15 00:00Z')::bigint * 1000 + i::bigint * {step},
               CASE WHEN i % 77 > 0 THEN i % 9000 END, (ARRAY['OK', 'OK', 'OK', 'ERROR', 'IN_PROGRESS'])[1 + i % 5]
          FROM generate_series(0, {n} - 1) AS i;
        INSERT INTO trace_request_metadata
        SELECT 'mlflow.trace.tokenUsage', json_build_object('input_tokens', i % 500, 'total_tokens', i % 600)::text,
               'tr-' || i FROM generate_series(0, {n} - 1) AS i
         UNION ALL
        SELECT 'mlflow.trace.cost', json_build_object('total_cost', i % 500 * 1e-05)::text, 'tr-' || i
          FROM generate_series(0, {n} - 1) AS i WHERE i % 3 = 0
         UNION ALL
        SELECT 'mlflow.trace.user', 'u' || i % 321, 'tr-' || i FROM generate_series(0, {n} - 1) AS i;""",
    "dify": """
        CREATE INDEX ON messages (created_at);
        CREATE INDEX ON workflow_runs (created_at, id);
        CREATE INDEX ON workflow_node_executions
            (tenant_id, app_id, workflow_id, triggered_from, workflow_run_id);
        INSERT INTO apps SELECT 'app' || i, 'app ' || i, 'normal' FROM generate_series(1, 20) AS i;
        INSERT INTO messages
        SELECT 'message' || i, 'app' || 1 + i % 20, i % 900, i % 400, i % 9000 / 1000.0, i % 777 * 0.0000123, 'USD',
               CASE WHEN i % 33 = 0 THEN 'error' ELSE 'normal' END,
               CASE WHEN i % 33 = 0 THEN 'InvokeRateLimitError: slow down, id ' || i END, 'u' || i % 400, NULL,
               timestamp '2026-11-15' + i * interval '{step} ms', NULL, 'api'
          FROM generate_series(0, {n} - 1) AS i WHERE i % 3 < 2;
        INSERT INTO workflow_runs
        SELECT 'run' || i, 't', 'app' || 1 + i % 20, 'w', 'app-run',
               (ARRAY['succeeded', 'failed', 'stopped', 'partial-succeeded'])[1 + i / 3 % 4],
               CASE WHEN i / 3 % 4 = 1 THEN 'node failed' END, i % 60000 / 1000.0, i % 5000, 'u' || i % 400,
               timestamp '2026-11-15' + i * interval '{step} ms'
          FROM generate_series(0, {n} - 1) AS i WHERE i % 3 = 2;
        INSERT INTO workflow_node_executions
        SELECT 'node' || id, tenant_id, app_id, workflow_id, 'workflow-run', id,
               '{{"total_tokens": 12, "total_price": "0.0001234", "currency": "USD"}}' FROM workflow_runs;""",
    "n8n": """
        CREATE INDEX ON execution_entity ("stoppedAt");
        CREATE UNIQUE INDEX ON execution_metadata ("executionId", key);
        INSERT INTO workflow_entity SELECT 'wf' || i, 'workflow ' || i, true FROM generate_series(1, 20) AS i;
        INSERT INTO execution_entity
        SELECT 10 + i, 'trigger', (ARRAY['success', 'success', 'error', 'success', 'crashed', 'canceled'])[1 + i % 6],
               t - i % 30000 * interval '1 ms', t, 'wf' || 1 + i % 20
          FROM (SELECT i, timestamptz '2026-11-15 00:00Z' + i * interval '{step} ms' AS t
                  FROM generate_series(0, {n} - 1) AS i) AS made;
        INSERT INTO execution_metadata
        SELECT 10 + i, 'user_id', 'u' || i % 300 FROM generate_series(0, {n} - 1, 5) AS i;""",
    "flowise": """
        INSERT INTO chat_flow SELECT 'flow' || i, 'flow ' || i FROM generate_series(1, 20) AS i;
        INSERT INTO execution
        SELECT 10 + i,
               '[{{"data": {{"output": {{"usageMetadata": {{"total_tokens": ' || i % 800 || '}}}}}}}}]',
               (ARRAY['FINISHED', 'FINISHED', 'ERROR', 'STOPPED', 'INPROGRESS'])[1 + i % 5], 'flow' || 1 + i % 20,
               's' || i % 500, t, t + i % 40000 * interval '1 ms'
          FROM (SELECT i, timestamp '2026-11-15' + i * interval '{step} ms' AS t FROM generate_series(0, {n} - 1) AS i)
               AS made;""",
    "langfuse2": """
        CREATE INDEX ON traces ("timestamp");
        CREATE INDEX ON observations (trace_id);
        INSERT INTO projects VALUES ('q1', 'one'), ('q2', 'two');
        INSERT INTO traces
        SELECT 'tr' || i, timestamp '2026-11-15' + i * interval '{step} ms', 'agent ' || i % 20, 'u' || i % 300,
               'q' || 1 + i % 2 FROM generate_series(0, {n} - 1) AS i;
        INSERT INTO observations
        SELECT id || '-' || k, id, project_id, "timestamp" + k * interval '10 ms',
               "timestamp" + (k * 10 + length(id) * 300) * interval '1 ms',
               CASE WHEN k = 2 AND hashtext(id) % 40 = 0 THEN 'ERROR' ELSE 'DEFAULT' END::"ObservationLevel",
               100 * k, CASE WHEN k = 2 THEN abs(hashtext(id) % 1000) * 0.0000012345678 END
          FROM traces, generate_series(1, 2) AS k WHERE id LIKE 'tr%';""",
    "langgraph": """
        CREATE INDEX ON runs (created_at);
        INSERT INTO assistant SELECT 'as' || i, 'assistant ' || i FROM generate_series(1, 20) AS i;
        INSERT INTO runs
        SELECT 'run' || i, 'as' || 1 + i % 20,
               (ARRAY['success', 'success', 'error', 'interrupted', 'timeout'])[1 + i % 5],
               CASE WHEN i % 5 = 2 THEN 'ValueError: x' END, 'u' || i % 99, t, t + i % 50000 * interval '1 ms'
          FROM (SELECT i, timestamptz '2026-11-15 00:00Z' + i * interval '{step} ms' AS t
                  FROM generate_series(0, {n} - 1) AS i) AS made;""",
    "openwebui": """
        CREATE INDEX ON chat_message (created_at);
        INSERT INTO model SELECT 'model' || i, 'model ' || i, true FROM generate_series(1, 20) AS i;
        INSERT INTO chat_message
        SELECT 'c-' || i, 'u' || i % 77, 'assistant', 'model' || 1 + i % 20, i % 97 > 0,
               CASE WHEN i % 41 = 0 THEN '{{"content": "boom"}}'::json END,
               json_build_object('prompt_tokens', i % 300, 'completion_tokens', i % 50), t, t + i % 30
          FROM (SELECT i, extract(epoch FROM timestamptz '2026-11-15 00:00Z')::bigint + i::bigint * {step} / 1000 AS t
                  FROM generate_series(0, {n} - 1) AS i) AS made;""",
    "otel": """
        CREATE INDEX ON otel_traces ("TraceId", "SpanId");
        INSERT INTO otel_traces
        SELECT t, lpad(to_hex(i), 32, '0'), lpad(to_hex(i * 3 + k), 16, '0'),
               CASE WHEN k > 0 THEN lpad(to_hex(i * 3), 16, '0') ELSE '' END,
               CASE WHEN k = 0 THEN jsonb_build_object('gen_ai.operation.name', 'invoke_agent', 'gen_ai.agent.name',
                                                       'agent ' || i % 20, 'user.id', 'u' || i % 400)
                    ELSE jsonb_build_object('gen_ai.operation.name', 'chat', 'gen_ai.usage.input_tokens', i % 900,
                                            'gen_ai.usage.output_tokens', i % 90) END,
               '{{"service.version": "1"}}', i % 9000 * 1000000::bigint,
               CASE WHEN i % 31 = 0 THEN 'Error' ELSE 'Ok' END, '[]'
          FROM (SELECT i, timestamp '2026-11-15' + i * interval '{step} ms' AS t FROM generate_series(0, {n} - 1) AS i)
               AS made, generate_series(0, 2) AS k;""",
}


def rows_of(name: str, executions: int) -> str:
    """The statements that add so many executions to the product's tables, evenly over ten days."""
    return ROWS[name].format(n=executions, step=10 * 86_400_000 // executions)
