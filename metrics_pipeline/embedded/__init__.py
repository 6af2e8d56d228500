"""The embedded PostgreSQL: started by the first process that needs it, shared by all, stopped after the last one."""

from metrics_pipeline.embedded.databases import ensure_database
from metrics_pipeline.embedded.dialing import before_connecting
from metrics_pipeline.embedded.lease import acquire, release, server_pid

__all__ = ["acquire", "before_connecting", "ensure_database", "release", "server_pid"]
