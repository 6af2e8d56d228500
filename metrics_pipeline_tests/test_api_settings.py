"""The variables of the API, and that no message repeats a malformed token."""

import hashlib

import pytest

from metrics_pipeline.errors import SettingsError
from metrics_pipeline.settings import Settings

SECRET = "kT4" + "x" * 40
OTHER = "0123456789abcdef" * 2


def settings(**environment: str) -> Settings:
    return Settings.from_environment({"METRICS_PIPELINE_HOME": "/nowhere", **environment})


def test_without_any_variable_the_api_has_no_tokens_and_looks_for_dagster_where_dev_serves_it() -> None:
    assert settings().api_tokens == ()
    assert settings().dagster_webserver_url == "http://127.0.0.1:3000"
    assert settings().api_database_url is None


def test_tokens_are_kept_as_digests_with_their_names_and_roles() -> None:
    reader, starter = settings(METRICS_API_TOKENS=f"grafana:read:{SECRET}, ci-1.x:trigger:{OTHER}").api_tokens
    assert (reader.name, reader.may_trigger) == ("grafana", False)
    assert (starter.name, starter.may_trigger) == ("ci-1.x", True)
    assert reader.sha256 == hashlib.sha256(SECRET.encode()).digest()
    shown = repr(
        settings(METRICS_API_TOKENS=f"grafana:read:{SECRET}", METRICS_API_DATABASE_URL=f"postgresql://{OTHER}")
    )
    assert SECRET not in shown
    assert OTHER not in shown
    assert repr(reader.sha256) not in shown


@pytest.mark.parametrize(
    "entry",
    [
        SECRET,
        f"grafana:{SECRET}",
        f"grafana:write:{SECRET}",
        f"gra fana:read:{SECRET}",
        f":read:{SECRET}",
        f"grafana:read:{SECRET[:31]}",
        f"grafana:read:{SECRET}é",
        f"grafana:read:{SECRET}=x",
        "",
    ],
)
def test_an_entry_that_cannot_be_read_is_told_by_its_number_and_never_repeated(entry: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^METRICS_API_TOKENS cannot be read in entry 2\. Set entries name:role:token,"
    ) as raised:
        settings(METRICS_API_TOKENS=f"first:read:{OTHER},{entry}")
    assert SECRET[:20] not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


@pytest.mark.parametrize("entry", [f"first:trigger:{SECRET}", f"second:read:{OTHER}"])
def test_a_name_or_a_token_that_comes_twice_is_refused(entry: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^METRICS_API_TOKENS repeats in entry 2 the name or the token of an earlier"
    ):
        settings(METRICS_API_TOKENS=f"first:read:{OTHER},{entry}")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://dagster.example/", "https://dagster.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://proxy.example/dagster/", "http://proxy.example/dagster"),
    ],
)
def test_the_webserver_s_address_is_taken_without_its_last_slash(url: str, kept: str) -> None:
    assert settings(DAGSTER_WEBSERVER_URL=url).dagster_webserver_url == kept


def test_links_lead_to_the_webserver_unless_a_browser_reaches_it_elsewhere() -> None:
    assert settings(DAGSTER_WEBSERVER_URL="http://webserver:3000").ui_url == "http://webserver:3000"
    given = settings(DAGSTER_WEBSERVER_URL="http://webserver:3000", METRICS_DAGSTER_URL="https://dagster.example/")
    assert given.ui_url == "https://dagster.example"


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:3000", "ftp://x", "http://", "http://x:99999", "http://[::1", "http://x/?a", "http://x b"],
)  # fmt: skip
def test_what_is_no_address_of_a_webserver_is_refused(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^DAGSTER_WEBSERVER_URL is not an HTTP URL\. Set the address at which the API"
    ):
        settings(DAGSTER_WEBSERVER_URL=url)


def test_a_password_in_the_webserver_s_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="holds a user or a password") as raised:
        settings(DAGSTER_WEBSERVER_URL=f"http://me:{SECRET}@dagster.example")
    assert SECRET not in str(raised.value)
