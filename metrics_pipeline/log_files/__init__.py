"""Loading logs into agent_execution_logs: reading files, checking every value, storing all logs or none."""
