"""The use cases, without Dagster: window → guard → extract → compute → validate → publish, and reconciling."""
