"""The metrics over HTTP: FastAPI on the stored metrics, and Dagster runs through the webserver's GraphQL."""
