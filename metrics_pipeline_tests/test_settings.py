"""Settings whose values Dagster or people see."""

import pytest

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.errors import SettingsError
from metrics_pipeline.settings import Settings


@pytest.mark.parametrize(
    ("value", "owners"),
    [
        ("", ()),
        ("team:agents", ("team:agents",)),
        (
            " team:agent platform , ops+metrics@example.com,, team:agent platform",
            ("team:agent platform", "ops+metrics@example.com"),
        ),
    ],
)
def test_owners_are_what_dagster_accepts(value: str, owners: tuple[str, ...]) -> None:
    assert Settings.from_environment({"METRICS_OWNERS": value}).owners == owners
    graph = build_defs(owners=owners).resolve_asset_graph()
    assert {graph.get(key).owners for key in graph.materializable_asset_keys} == {owners}


@pytest.mark.parametrize("value", ["agents", "team:", "ops@example", "a@b.com c@d.com", "team:x,Team:y"])
def test_another_owner_is_refused_by_its_name(value: str) -> None:
    with pytest.raises(SettingsError, match=r"METRICS_OWNERS names '.*', which is no owner\. Set email addresses and"):
        Settings.from_environment({"METRICS_OWNERS": value})
