"""What METRICS_DIMENSIONS may say, and which values keep a row of their own."""

import polars as pl
import pytest

from metrics_pipeline.api.routes.activity import ActivityParameters
from metrics_pipeline.errors import SettingsError
from metrics_pipeline.metrics.catalog import METRIC_NAMES
from metrics_pipeline.metrics.dimensions import RESERVED, VALUE_PARTIALS_SCHEMA, Dimension, definitions, keep_largest
from metrics_pipeline.settings import Settings


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


def parts(*executions: tuple[str, str, int]) -> pl.DataFrame:
    rows = [
        {"agent_id": "a", "dimension": "model", "value_kind": kind, "value": value, "total_executions": number}
        for kind, value, number in executions
    ]
    return pl.DataFrame(rows, schema=VALUE_PARTIALS_SCHEMA)


def test_the_fifty_largest_values_over_all_parts_are_kept() -> None:
    many = [("value", f"v{number:02}", 2) for number in range(60)]
    # v59 has 1 + 2 + 2 executions in three parts, and our own "(none)" is larger than a value that is spelled so.
    partials, merged = keep_largest(
        [
            parts(*many, ("value", "v59", 1)),
            parts(("value", "v59", 2), ("none", "(none)", 3), ("value", "(none)", 1)),
        ]
    )
    kept = partials.filter(pl.col("value_kind") != "other").select("value_kind", "value").unique().rows()
    assert sorted(kept) == [("none", "(none)"), *(("value", f"v{number:02}") for number in [*range(48), 59])]
    assert merged.rows() == [("a", "model", 12)]
    assert partials["total_executions"].sum() == 60 * 2 + 3 + 3 + 1


def test_fifty_values_need_no_row_for_others() -> None:
    exactly = parts(*(("value", f"v{number}", 1) for number in range(50)))
    partials, merged = keep_largest([exactly])
    assert (set(partials["value_kind"]), merged.height) == ({"value"}, 0)
