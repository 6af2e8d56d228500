"""Retention: deletes old logs, metrics and alerts, and never a log that is not in the metrics exactly as it is.

Nothing here decides what may go: metrics/retention.py does. The ledger row of a sealed day is kept forever.
"""
