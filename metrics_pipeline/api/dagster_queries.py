"""The GraphQL queries and mutations for Dagster's webserver."""

_RUN_FIELDS = """
    runId jobName status creationTime startTime endTime
    tags { key value }
    assetSelection { path }
    repositoryOrigin { repositoryLocationName }
"""
_ERROR_FIELDS = "__typename ... on Error { message }"

RUN = f"query ($id: ID!) {{ runOrError(runId: $id) {{ {_ERROR_FIELDS} ... on Run {{ {_RUN_FIELDS} }} }} }}"
_RUN = "results { runId jobName status startTime endTime repositoryOrigin { repositoryLocationName } }"
WATCHED = f"""query ($newest: RunsFilter!, $ended: RunsFilter!, $retention: RunsFilter!, $active: RunsFilter!,
        $failed: RunsFilter!) {{
    newest: runsOrError(filter: $newest, limit: 1) {{ {_ERROR_FIELDS} ... on Runs {{ {_RUN} }} }}
    ended: runsOrError(filter: $ended, limit: 1) {{ {_ERROR_FIELDS} ... on Runs {{ {_RUN} }} }}
    retention: runsOrError(filter: $retention, limit: 1) {{ {_ERROR_FIELDS} ... on Runs {{ {_RUN} }} }}
    active: runsOrError(filter: $active, limit: 1000) {{ {_ERROR_FIELDS} ... on Runs {{ {_RUN} }} }}
    failed: runsOrError(filter: $failed, limit: 1000) {{ {_ERROR_FIELDS} ... on Runs {{ {_RUN} }} }}
    instance {{ daemonHealth {{ allDaemonStatuses {{ daemonType required lastHeartbeatTime }} }} }}
}}"""
EVENTS = """query ($id: ID!, $cursor: String) {
    runOrError(runId: $id) { ... on Run { eventConnection(afterCursor: $cursor, limit: 1000) {
        cursor hasMore
        events {
            __typename
            ... on ExecutionStepFailureEvent {
                error { message errorChain { error { message } } } failureMetadata { description }
            }
            ... on RunFailureEvent { message }
        }
    } } }
}"""
UNFINISHED = f"""query ($runs: RunsFilter!, $backfills: BulkActionsFilter!) {{
    runsOrError(filter: $runs) {{ {_ERROR_FIELDS} ... on Runs {{ results {{ {_RUN_FIELDS} }} }} }}
    partitionBackfillsOrError(filters: $backfills, limit: 100) {{
        {_ERROR_FIELDS} ... on PartitionBackfills {{ results {{ id assetSelection {{ path }} partitionNames }} }}
    }}
}}"""
BACKFILL = f"""query ($id: String!) {{
    partitionBackfillOrError(backfillId: $id) {{
        {_ERROR_FIELDS}
        ... on PartitionBackfill {{
            id status creationTime endTimestamp assetSelection {{ path }} partitionNames error {{ message }}
            runs {{ runId }}
        }}
    }}
}}"""
KEYED = f"""query ($runs: RunsFilter!) {{
    runsOrError(filter: $runs, limit: 100) {{ {_ERROR_FIELDS} ... on Runs {{ results {{ {_RUN_FIELDS} }} }} }}
    partitionBackfillsOrError(limit: 100) {{
        {_ERROR_FIELDS} ... on PartitionBackfills {{ results {{ id tags {{ key value }} }} }}
    }}
}}"""
LAUNCH_RUN = f"""mutation ($params: ExecutionParams!) {{
    launchRun(executionParams: $params) {{
        {_ERROR_FIELDS}
        ... on RunConfigValidationInvalid {{ errors {{ message }} }}
        ... on LaunchRunSuccess {{ run {{ runId }} }}
    }}
}}"""
LAUNCH_BACKFILL = f"""mutation ($params: LaunchBackfillParams!) {{
    launchPartitionBackfill(backfillParams: $params) {{
        {_ERROR_FIELDS}
        ... on LaunchBackfillSuccess {{ backfillId }}
    }}
}}"""
