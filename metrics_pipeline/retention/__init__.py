"""Retention: deletes old logs, metrics and alerts, and never a log whose day does not stand right in the metrics.

Nothing here decides what may go: metrics/retention.py does. What is sealed stays in metric_day_ledger for ever, as it
is what keeps a later backfill from storing zeros for the day.
"""
