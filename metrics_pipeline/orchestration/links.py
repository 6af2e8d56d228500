"""Links of what the UI shows: to a day on the page and in the API, to the documentation, and to the code."""

import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import cast

import dagster as dg

from metrics_pipeline.names import (
    ALERTS_TABLE,
    API_ASSET,
    LOGS_TABLE,
    METRICS_ASSET,
    PAGE_ASSET,
    REGISTRY_TABLE,
    RETENTION_ASSET,
)
from metrics_pipeline.settings import Settings

#: The page of docs/ about an asset.
_PAGES = {
    METRICS_ASSET: "reference/metrics.md",
    RETENTION_ASSET: "howto/retention.md",
    API_ASSET: "reference/api.md",
    PAGE_ASSET: "howto/page.md",
    **dict.fromkeys((LOGS_TABLE, REGISTRY_TABLE, ALERTS_TABLE), "reference/tables.md"),
}
_CODE = "dagster/code_references"
_PROJECT = Path(__file__).parents[2]


def day_links(settings: Settings, day: date) -> dict[str, dg.MetadataValue]:
    """The day on the page and in the API; nothing where their address is not known."""
    if settings.api_url is None:
        return {}
    return {
        "page": dg.MetadataValue.url(f"{settings.api_url}/?day={day}"),
        "api": dg.MetadataValue.url(f"{settings.api_url}/api/v1/metrics?date={day}"),
    }


def documentation(settings: Settings, page: str) -> str | None:
    """The address of a page of docs/; None where that of the repository is not known."""
    return f"{settings.source_url}/docs/{page}" if settings.source_url else None


def with_links(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec], settings: Settings
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets with links to the page and the API, and to their documentation and code in the repository.

    Without the address of the page, or of the repository, these links are left out. The code is then a local file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # an operator cannot act on it
        referred = cast("list[dg.AssetsDefinition | dg.AssetSpec]", dg.with_source_code_references(assets))
        return [
            asset.map_asset_specs(lambda spec: _linked(spec, settings))
            if isinstance(asset, dg.AssetsDefinition)
            else _linked(asset, settings)
            for asset in referred
        ]


def _linked(spec: dg.AssetSpec, settings: Settings) -> dg.AssetSpec:
    key = spec.key.to_user_string()
    links: dict[str, object] = {}
    if settings.api_url and key in (METRICS_ASSET, PAGE_ASSET):
        links["page"] = dg.MetadataValue.url(f"{settings.api_url}/")
    if settings.api_url and key in (METRICS_ASSET, API_ASSET):
        links["api"] = dg.MetadataValue.url(f"{settings.api_url}/docs")
    if settings.source_url and key in _PAGES:
        links["documentation"] = dg.MetadataValue.url(f"{settings.source_url}/docs/{_PAGES[key]}")
    # Tables of other systems have no code.
    if settings.source_url and _CODE in spec.metadata:
        (local,) = spec.metadata[_CODE].code_references
        path = Path(local.file_path).relative_to(_PROJECT)
        reference = dg.UrlCodeReference(url=f"{settings.source_url}/{path}#L{local.line_number}")
        links[_CODE] = dg.CodeReferencesMetadataValue(code_references=[reference])
    return spec.merge_attributes(metadata=links)
