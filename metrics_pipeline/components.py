"""The pipeline as a component, for projects that `dg` manages. `dg` finds it by an entry point of setup.cfg."""

from dataclasses import fields, replace
from typing import Any

import dagster as dg
from pydantic import Field

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.errors import SettingsError
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.settings import VARIABLES, Settings


def _attribute(name: str) -> Any:
    variable = VARIABLES[name]
    return Field(default=None, description=f"{variable.description} Left out: the value of {variable.name}.")


class MetricsPipelineComponent(dg.Component, dg.Model, dg.Resolvable):
    """Daily metrics of AI agents: assets, checks, jobs, schedules and sensors.

    An attribute that is left out has the value of its environment variable, as do all other settings.
    """

    database_url: str | None = _attribute("database_url")
    time_zone: str | None = _attribute("time_zone")
    start_date: str | None = _attribute("start_date")
    lookback_days: int | None = _attribute("lookback_days")
    owners: list[str] | None = _attribute("owners")
    dimensions: list[str] | None = _attribute("dimensions")
    raw_log_days: int | str | None = _attribute("raw_log_days")
    metric_days: int | str | None = _attribute("metric_days")
    alert_days: int | str | None = _attribute("alert_days")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's signature
        """The same definitions as `metrics_pipeline.definitions.defs`, without an executor for the whole project.

        Raises SettingsError for an attribute or a variable that cannot be used.
        """
        given = {name: self._parsed(name) for name in type(self).model_fields if getattr(self, name) is not None}
        limits = {limit.name: given.pop(limit.name) for limit in fields(RetentionPolicy) if limit.name in given}
        if limits:
            given["retention"] = replace(Settings.from_environment().retention, **limits)
        defs = build_defs(**given)
        return dg.Definitions(
            assets=defs.assets,
            asset_checks=defs.asset_checks,
            jobs=defs.jobs,
            sensors=defs.sensors,
            schedules=defs.schedules,
            resources=defs.resources,
        )

    def _parsed(self, name: str) -> Any:
        variable, value = VARIABLES[name], getattr(self, name)
        text = ",".join(value) if isinstance(value, list) else str(value)
        try:
            return variable.parse(text)
        except ValueError as error:
            raise SettingsError(f"The attribute {name}: {variable.refusal(text, error)}") from error
