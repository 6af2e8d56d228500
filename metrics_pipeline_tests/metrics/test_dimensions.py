"""What METRICS_DIMENSIONS may say, and which values keep a row of their own."""

import polars as pl
import pytest

from metrics_pipeline.api.routes.activity import ActivityParameters
from metrics_pipeline.errors import SettingsError
from metrics_pipeline.metrics.catalog import METRIC_NAMES
from metrics_pipeline.metrics.dimensions import MARKS, RESERVED, Dimension, broken_down, definitions, log_schema
from metrics_pipeline.settings import Settings

MODEL = Dimension("model", "metadata", ("model",))


def test_a_dimension_is_a_key_of_metadata_or_a_column() -> None:
    declared = "model, version=metadata.release.version,tier=plan_tier,k8s=metadata.k8s-node"
    dimensions = Settings.from_environment({"METRICS_DIMENSIONS": declared}).dimensions
    assert dimensions == (
        Dimension("model", "metadata", ("model",)),
        Dimension("version", "metadata", ("release", "version")),
        Dimension("tier", "plan_tier"),
        Dimension("k8s", "metadata", ("k8s-node",)),
    )
    written = definitions(dimensions)
    assert written == "model=metadata.model,version=metadata.release.version,tier=plan_tier,k8s=metadata.k8s-node"
    assert Settings.from_environment({"METRICS_DIMENSIONS": written}).dimensions == dimensions
    assert Settings.from_environment({}).dimensions == ()


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("model,", "in which '' does not begin with a name of small letters"),
        ("Model", "in which 'Model' does not begin with a name of small letters"),
        ("x;y", "in which 'x;y' does not begin with a name"),
        ("x=metadata", "in which 'x=metadata' names neither a column nor keys of metadata"),
        ("x=tags.key", "in which 'x=tags.key' names neither a column nor keys of metadata"),
        ("x=metadata.it's", 'in which "x=metadata.it\'s" names neither'),
        ("x=", "in which 'x=' names neither"),
        ("day", "in which 'day' has a name that the metrics or the API use already"),
        ("x,total_tokens=metadata.t", "in which 'total_tokens=metadata.t' has a name that"),
        ("x,y,x=metadata.z", "which has a name twice"),
        ("p,q,r,s,t,u", "which has 6 dimensions, of which 5 are possible"),
    ],
)
def test_what_cannot_be_a_dimension_is_refused_with_value_place_and_remedy(declared: str, words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({"METRICS_DIMENSIONS": declared})
    assert str(raised.value).startswith(f"METRICS_DIMENSIONS is {declared!r}, {words}")
    assert "Set up to 5 entries, separated by commas" in str(raised.value)


def test_no_dimension_has_the_name_of_a_metric_or_of_a_parameter() -> None:
    assert {*METRIC_NAMES, *ActivityParameters.model_fields, "agent", "day", "week", "month", "error_type"} <= RESERVED


def logs_of(*values: tuple[str, int]) -> pl.DataFrame:
    """As many logs of one agent as each text says."""
    texts = [text for text, number in values for _ in range(number)]
    schema = log_schema([MODEL])
    rows = [{"agent_id": "a", "value_0": text, "token_count": 1, "cost_nano_usd": 1, "latency_ms": 7} for text in texts]
    return pl.DataFrame(rows, schema=schema)


def test_the_fifty_largest_values_are_kept() -> None:
    many = [(f"v{number:02}", 2) for number in range(60)]
    # v59 has five executions. The logs without a value are more than those of a value that is spelled "(none)".
    partials, keys = broken_down(logs_of(*many, ("v59", 3), (MARKS["none"], 3), ("(none)", 1)), [MODEL])
    kept = keys.filter(pl.col("value_kind") != "other").select("value_kind", "value").rows()
    assert sorted(kept) == [("none", "(none)"), *(("value", f"v{number:02}") for number in [*range(48), 59])]
    others = partials.filter(pl.col("value_kind") == "other").select("total_executions", "latency_counts")
    assert others.rows() == [(11 * 2 + 1, [{"latency_ms": 7, "executions": 23}])]
    assert keys.filter(pl.col("value_kind") == "other").select("value", "merged_values", "found").rows() == [
        ("(other)", 12, None)
    ]
    assert partials["total_tokens"].sum() == 60 * 2 + 3 + 3 + 1


def test_fifty_values_need_no_row_for_others() -> None:
    _, keys = broken_down(logs_of(*((f"v{number}", 1) for number in range(50))), [MODEL])
    assert (set(keys["value_kind"]), set(keys["merged_values"])) == ({"value"}, {1})
