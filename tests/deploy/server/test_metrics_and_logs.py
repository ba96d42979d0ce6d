import json

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from prometheus_client.parser import text_string_to_metric_families

from visus.core.errors import ResourceError
from visus.deploy.server.exchange import Exchange
from visus.deploy.server.logs import Log
from visus.deploy.server.metrics import SIZE, Metrics


def samples(text: bytes) -> dict:
    return {(sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text.decode()) for sample in family.samples}


def test_the_workers_counts_are_one_sum_and_outlive_a_worker():
    block = np.zeros((2, SIZE))
    first, second = Metrics(block, 0), Metrics(block, 1)
    first.request("predict", 200, 0.003)
    second.request("predict", 200, 0.3)
    second.request("predict", 418, 99.0)
    first.count("images", 4)
    first.set("ready", 1)
    second.set("ready", 1)
    second = Metrics(block, 1)  # it died, and another took its place
    found = samples(second.text("m", "v"))
    assert found["visus_requests_total", "200", "predict"] == 2
    assert found["visus_requests_total", "other", "predict"] == 1
    assert found["visus_images_total",] == 4
    assert (found["visus_ready",], found["visus_workers",]) == (1, 2)


def test_buckets_are_cumulative_and_hold_their_upper_edge():
    metrics = Metrics()
    for seconds in (0.001, 0.0011, 0.5, 20.0):
        metrics.stage("model", seconds)
    found = samples(metrics.text("m", "v"))
    assert found["visus_stage_seconds_bucket", "0.001", "model"] == 1
    assert found["visus_stage_seconds_bucket", "0.0025", "model"] == 2
    assert found["visus_stage_seconds_bucket", "10.0", "model"] == 3
    assert found["visus_stage_seconds_bucket", "+Inf", "model"] == 4
    assert found["visus_stage_seconds_sum", "model"] == pytest.approx(20.5021)


def test_a_log_line_is_json_and_holds_a_clients_bytes_escaped_and_short(tmp_path):
    log = Log(str(tmp_path / "log"))
    exchange = Exchange()
    exchange.status, exchange.route = 404, "other"
    log.request(exchange, "GET", "/\x1b[2J\n{\"event\":\"forged\"}" + "x" * 5000, 0.25)
    log.event("reloaded", model="m")
    log.close()
    text = (tmp_path / "log").read_text()
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["path"].startswith("/\\x1b[2J\\n") and len(first["path"]) < 300 and "\x1b" not in text
    assert (first["id"], first["status"], first["ms"]) == (exchange.id, 404, 250.0)
    assert (second["event"], second["model"]) == ("reloaded", "m")


def test_a_log_without_requests_still_tells_events(tmp_path, capsys):
    log = Log("")
    log.request(Exchange(), "GET", "/", 0.1)
    log.event("stopped")
    log.close()
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["stopped"]


def test_a_log_file_that_cannot_be_written_is_said_at_the_start(tmp_path):
    with pytest.raises(ResourceError):
        Log(str(tmp_path))


def test_ids_differ():
    assert len({Exchange().id for _ in range(1000)}) == 1000
