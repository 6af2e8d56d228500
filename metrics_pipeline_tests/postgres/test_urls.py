import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.errors import SettingsError
from metrics_pipeline.postgres.urls import DatabaseUrl

SECRET = "hunter2"


def named(url: str) -> dict[str, str]:
    """The parameters that the URL names, without those that the package adds to a bare one."""
    added = DatabaseUrl.parse("postgresql://").parameters
    return {name: value for name, value in DatabaseUrl.parse(url).parameters.items() if added.get(name) != value}


@pytest.mark.parametrize(
    "scheme",
    ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "POSTGRESQL"],
)
def test_every_scheme_and_driver_suffix_names_the_same_database(scheme: str) -> None:
    assert named(f"{scheme}://alice:pw@db.example:6432/metrics") == {
        "user": "alice",
        "password": "pw",
        "host": "db.example",
        "port": "6432",
        "dbname": "metrics",
    }


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("postgresql://", {}),
        ("postgresql:///metrics", {"dbname": "metrics"}),
        ("postgresql:///metrics?host=/run/postgresql", {"dbname": "metrics", "host": "/run/postgresql"}),
        ("postgresql://%2Frun%2Fpostgresql/metrics", {"dbname": "metrics", "host": "/run/postgresql"}),
        ("postgresql://[::1]:6432/m", {"host": "::1", "port": "6432", "dbname": "m"}),
        ("postgresql://a,b:6432/m", {"host": "a,b", "port": ",6432", "dbname": "m"}),
        ("postgresql://u:p%40s%2Fs%3A%25+@h/m", {"user": "u", "password": "p@s/s:%+", "host": "h", "dbname": "m"}),
        ("postgresql://u:p?w@h/m", {"user": "u", "password": "p?w", "host": "h", "dbname": "m"}),
        ("postgresql://h/m?password=pw&user=u", {"user": "u", "password": "pw", "host": "h", "dbname": "m"}),
        ("postgresql://h/m?sslmode=require", {"host": "h", "dbname": "m", "sslmode": "require"}),
        ("postgresql://h?options=-c%20search_path%3Dx", {"host": "h", "options": "-c search_path=x"}),
        ("postgresql://h?connect_timeout=3", {"host": "h", "connect_timeout": "3"}),
        ("postgresql://h?application_name=a", {"host": "h", "application_name": "a"}),
        (" postgresql://h/m\n", {"host": "h", "dbname": "m"}),
    ],
)  # fmt: skip
def test_each_part_of_a_url_reaches_libpq(url: str, parameters: dict[str, str]) -> None:
    assert named(url) == parameters


_words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@given(user=_words, password=_words, database=_words)
def test_any_user_password_and_database_survive_percent_encoding(user: str, password: str, database: str) -> None:
    url = DatabaseUrl.parse(
        f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h/{quote(database, safe='')}"
    )
    assert (url.parameters["user"], url.parameters["password"], url.parameters["dbname"]) == (user, password, database)


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("postgresql://alice:hunter2@db.example:6432/metrics", "database metrics on db.example:6432 (user alice)"),
        ("postgresql://alice@db.example/metrics", "database metrics on db.example:5432 (user alice)"),
        ("postgresql://alice@db.example", "database alice on db.example:5432 (user alice)"),
        ("postgresql://alice@[::1]:6432/m", "database m on [::1]:6432 (user alice)"),
        ("postgresql://alice@a:1,b:2/m", "database m on a:1, b:2 (user alice)"),
        ("postgresql://alice@a,b/m", "database m on a:5432, b:5432 (user alice)"),
        ("postgresql://alice@/m?host=/tmp&port=7", "database m on /tmp:7 (user alice)"),
        ("postgresql://alice@/m", "database m on the local socket:5432 (user alice)"),
        ("postgresql://alice@/m?hostaddr=10.0.0.1", "database m on 10.0.0.1:5432 (user alice)"),
        ("postgresql:///?service=metrics", "the database of service metrics"),
        ("postgresql:///m?service=metrics", "database m of service metrics"),
    ],
)
def test_the_description_names_database_host_port_and_user(url: str, description: str) -> None:
    assert DatabaseUrl.parse(url).description == description


def test_what_the_url_leaves_out_is_described_as_libpq_fills_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGHOST": "db.example", "PGPORT": "7", "PGUSER": "bob", "PGDATABASE": "m"}.items():
        monkeypatch.setenv(name, value)
    assert DatabaseUrl.parse("postgresql://").description == "database m on db.example:7 (user bob)"


def test_repr_and_description_hold_no_secret() -> None:
    url = DatabaseUrl.parse(f"postgresql://alice:{SECRET}@h/m?sslpassword={SECRET}&application_name={SECRET}")
    assert SECRET not in f"{url!r} {url} {url.description}"
    assert url.parameters["sslpassword"] == SECRET


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        (SECRET, "Write it as postgresql://"),
        (f"mysql://alice:{SECRET}@h/m", "Write it as postgresql://"),
        (f"postgresql:alice:{SECRET}@h/m", "Write it as postgresql://"),
        (f"jdbc:postgresql://h/m?password={SECRET}", "Write it as postgresql://"),
        (f"postgresql://alice:a@{SECRET}@h/m", "@ as %40"),
        (f"postgresql://alice:12/{SECRET}@h/m", "/ as %2F"),
        (f"postgresql://h?password={SECRET}@x", "@ as %40"),
        (f"postgresql://?user=alice&password={SECRET}@x:5432", "@ as %40"),
        (f"postgresql://h/m?password={SECRET}@x", "@ as %40"),
        (f"postgresql://alice:{SECRET}/x@h/m", "/ as %2F"),
        (f"postgresql://alice:{SECRET}/x", "/ as %2F"),
        (f"postgresql://alice:{SECRET}%zz@h/m", "percent-encoded"),
        (f"postgresql://alice:{SECRET}%00@h/m", "percent-encoded"),
        (f"postgresql://alice:{SECRET}%E9@h/m", "percent-encoded"),
        (f"postgresql://alice:[{SECRET}@[h/m", "percent-encoded"),
        (f"postgresql://h/m?{SECRET}", "percent-encoded"),
        (f"postgresql://h/m?{SECRET}=1", "percent-encoded"),
        (f"postgresql://h/m?pasword={SECRET}", "percent-encoded"),
    ],
)
def test_an_unusable_url_is_refused_without_repeating_any_of_it(url: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        DatabaseUrl.parse(url)
    assert str(caught.value).startswith("METRICS_DATABASE_URL ")
    assert remedy in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_schema_of_a_url_of_prismas_is_understood_and_its_pool_is_its_own() -> None:
    given = "postgresql://u@h/m?schema=my%20logs&pgbouncer=true&connection_limit=9&sslmode=require&pool_timeout=20"
    url = DatabaseUrl.parse(given)
    assert (url.schema, url.parameters["sslmode"], url.parameters["dbname"]) == ("my logs", "require", "m")
    assert url.environment()["PGOPTIONS"] == '-csearch_path="my\\ logs"'
    assert url.without_secrets().endswith("&options=-csearch_path%3D%22my%5C%20logs%22")
    assert DatabaseUrl.parse("postgresql://u@h/m?schema=a").parameters.keys() == url.parameters.keys() - {"sslmode"}
    # What follows the question mark of a password is not searched.
    assert DatabaseUrl.parse("postgresql://u:hunter2?schema=x@h/m").schema is None


@pytest.mark.parametrize("name", ["currentSchema", "ssl"])
def test_a_parameter_of_another_client_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"can use. {name} belongs to another client: leave it out. Write it as"):
        DatabaseUrl.parse(f"postgresql://alice:hunter2@h/m?sslmode=require&{name}=x")


@pytest.mark.parametrize("host", ["db..example", "a" * 64, "db.example,b..c", "é" * 64])
def test_a_host_that_no_name_server_could_know_is_refused_and_not_repeated(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^METRICS_DATABASE_URL .* a host that a name server can know") as refused:
        DatabaseUrl.parse(f"postgresql://u:hunter2@{host}/d")
    assert host not in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "host", ["db_1.example", "a" * 63, "münchen.example", "[::1]", "%2Ftmp%2Fa..b", "10.0.0.1", ""]
)
def test_any_other_host_is_left_to_the_look_up(host: str) -> None:
    DatabaseUrl.parse(f"postgresql://u@{host}/d")


def test_digits_of_other_scripts_are_no_port() -> None:
    with pytest.raises(SettingsError, match="a port that is a number"):
        DatabaseUrl.parse("postgresql://h:٣/d")
