"""`notify test`: who got the message, and who did not."""

from pathlib import Path

from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.errors import PermanentError
from metrics_pipeline_tests.receivers import receivers, web_server


def test_each_receiver_gets_a_test_and_who_does_not_answer_is_named_without_its_url(tmp_path: Path) -> None:
    with web_server() as alerts, web_server() as daily:
        urls = [f"json://127.0.0.1:{inbox.port}" for inbox in (alerts, daily)]
        down = "json://127.0.0.1:1/s3cret"
        first, unreachable, last = receivers(urls[0], down, urls[1])
        environment = {
            "METRICS_NOTIFY": f"{urls[0]} {down}",
            "METRICS_NOTIFY_DAILY": urls[1],
            "METRICS_PIPELINE_HOME": str(tmp_path),
        }
        result = CliRunner().invoke(app, ["notify", "test"], env=environment)
    assert result.stdout == f"JSON ({first.id}) got the message.\nJSON ({last.id}) got the message.\n"
    assert isinstance(result.exception, PermanentError)
    assert str(result.exception).startswith(f"JSON ({unreachable.id}) did not get the message. It cannot be reached")
    assert "s3cret" not in f"{result.output}{result.exception}"
    assert [len(inbox.messages) for inbox in (alerts, daily)] == [1, 1]
