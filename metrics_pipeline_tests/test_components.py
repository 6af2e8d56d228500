"""The component that embeds the pipeline in a Dagster project: what its YAML sets, and what it refuses."""

import re
from importlib.metadata import entry_points

import dagster as dg
import pytest
import yaml
from dagster.components.testing.utils import create_defs_folder_sandbox

from metrics_pipeline.components import MetricsPipelineComponent
from metrics_pipeline.errors import SettingsError
from metrics_pipeline_tests.documents.pages import DOCS

# Dagster's own, about the reference to the YAML's lines.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def loaded(attributes: dict[str, object]) -> dg.Definitions:
    """The definitions of a project whose defs.yaml has these attributes."""
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=MetricsPipelineComponent,
            defs_yaml_contents={
                "type": "metrics_pipeline.components.MetricsPipelineComponent",
                "attributes": attributes,
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, defs):
            return defs


def test_dg_finds_the_component() -> None:
    (entry,) = entry_points(group="dagster_dg_cli.registry_modules", name="metrics_pipeline")
    assert entry.load().MetricsPipelineComponent is MetricsPipelineComponent


def test_what_the_yaml_leaves_out_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_TIME_ZONE", "Asia/Tokyo")
    monkeypatch.setenv("METRICS_RETENTION_ALERT_DAYS", "7")
    given = {
        "dimensions": ["model", "version=metadata.release"],
        "start_date": "2025-07-01",
        "owners": ["team:agents"],
        "raw_log_days": 61,
        "metric_days": "never",
    }
    defs = loaded(given)
    asset = defs.resolve_asset_graph().get(dg.AssetKey("agent_performance_metrics"))
    assert asset.partitions_def == dg.DailyPartitionsDefinition("2025-07-01", timezone="Asia/Tokyo")
    assert list(asset.owners) == ["team:agents"]
    by_value = defs.resolve_asset_graph().get(dg.AssetKey("agent_dimension_metrics"))
    assert by_value.metadata["dimensions"] == "model=metadata.model,version=metadata.release"
    about = defs.resolve_asset_graph().get(dg.AssetKey("data_retention")).description
    assert "raw logs are kept for 61 days, metrics\nkept forever, resolved alerts kept for 7 days." in about
    assert {job.name for job in defs.resolve_all_job_defs()} >= {"daily_metrics_job", "data_retention_job"}
    assert loaded({}).resolve_schedule_def("daily_metrics_schedule").execution_timezone == "Asia/Tokyo"


def test_the_yaml_of_the_guide_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```yaml\n(.+?)```", (DOCS / "howto" / "embed.md").read_text(), re.DOTALL)
    monkeypatch.setenv("METRICS_DATABASE_URL", "postgresql://metrics@db.example/platform")
    defs = loaded(yaml.safe_load(block)["attributes"])
    assert defs.resolve_schedule_def("daily_metrics_schedule").execution_timezone == "Europe/Berlin"
    assert defs.resolve_asset_graph().get(dg.AssetKey("agent_dimension_metrics")).metadata["dimensions"] == (
        "model=metadata.model,version=metadata.release"
    )


def test_it_leaves_the_executor_of_the_project_alone() -> None:
    assert loaded({}).executor is None


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"time_zone": "Mars/Olympus"}, "The attribute time_zone: METRICS_TIME_ZONE is 'Mars/Olympus', which is not"),
        ({"dimensions": ["agent"]}, "The attribute dimensions: METRICS_DIMENSIONS is 'agent', in which 'agent' has a"),
        ({"lookback_days": 0}, "The attribute lookback_days: METRICS_LOOKBACK_DAYS is '0', which cannot be used"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_what_would_be_accepted(
    attributes: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        MetricsPipelineComponent(**attributes).build_defs(None)
    assert said in str(caught.value)
