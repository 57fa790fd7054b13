from __future__ import annotations

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.monitoring.metrics import Metrics
from tests.fakes import PATIENCE, FakeGraph, text_features


def lines(metrics: Metrics) -> list[str]:
    page, kind = metrics.render()
    assert kind.startswith("text/plain")
    return page.decode().splitlines()


def test_a_request_is_counted_by_route_and_status_with_its_latency() -> None:
    metrics = Metrics()
    metrics.count_response("/v1/embeddings", 200, 0.004)
    metrics.count_response("/v1/embeddings", 200, 0.5)
    metrics.count_response("/v1/embeddings", 429, 0.001)
    page = lines(metrics)
    assert 'mmes_requests_total{route="/v1/embeddings",status="200"} 2.0' in page
    assert 'mmes_requests_total{route="/v1/embeddings",status="429"} 1.0' in page
    assert 'mmes_request_seconds_bucket{le="0.005",route="/v1/embeddings"} 2.0' in page
    assert 'mmes_request_seconds_count{route="/v1/embeddings"} 3.0' in page


def test_items_tokens_bytes_and_errors_are_counted() -> None:
    metrics = Metrics()
    metrics.count_items("text", items=3, tokens=21)
    metrics.count_items("text", items=1, tokens=4)
    metrics.count_media("image", 1000)
    metrics.count_error("queue_full")
    page = lines(metrics)
    assert 'mmes_items_total{tower="text"} 4.0' in page
    assert 'mmes_tokens_total{tower="text"} 25.0' in page
    assert 'mmes_media_bytes_total{kind="image"} 1000.0' in page
    assert 'mmes_errors_total{code="queue_full"} 1.0' in page


def test_a_batcher_reports_its_batch_sizes_and_its_queue() -> None:
    metrics, graph = Metrics(), FakeGraph()
    batcher = Batcher(
        graph, name="text", max_batch=8, max_cost=64, on_batch=metrics.batch_sizes("text")
    )
    metrics.watch_queue("text", lambda: batcher.waiting)
    graph.hold()
    futures = batcher.submit([text_features(1)], priority=Priority.INTERACTIVE)
    graph.wait_for_call()
    futures += batcher.submit([text_features(2), text_features(3)], priority=Priority.BULK)
    assert 'mmes_queue_items{tower="text"} 2.0' in lines(metrics)
    graph.release()
    for future in futures:
        future.result(PATIENCE)
    batcher.close()
    page = lines(metrics)
    assert 'mmes_queue_items{tower="text"} 0.0' in page
    assert 'mmes_batch_items_sum{tower="text"} 3.0' in page


def test_the_stages_of_an_item_are_timed_by_tower() -> None:
    """On a clock of the test: a row waits 2 s for its batch, which takes 4 s."""
    metrics, graph, now = Metrics(), FakeGraph(), [0.0]
    batcher = Batcher(
        graph,
        name="text",
        max_batch=8,
        max_cost=64,
        on_stage=metrics.stage_times("text"),
        clock=lambda: now[0],
    )
    graph.hold()
    first = batcher.submit([text_features(1)], priority=Priority.BULK)
    graph.wait_for_call()
    (second,) = batcher.submit([text_features(2)], priority=Priority.BULK)
    now[0] = 4.0
    graph.release()
    for future in (*first, second):
        future.result(PATIENCE)
    batcher.close()
    page = lines(metrics)
    assert 'mmes_stage_seconds_sum{stage="compute",tower="text"} 4.0' in page
    assert 'mmes_stage_seconds_count{stage="compute",tower="text"} 2.0' in page
    assert 'mmes_stage_seconds_sum{stage="wait",tower="text"} 4.0' in page
    assert 'mmes_stage_seconds_count{stage="wait",tower="text"} 2.0' in page


def test_the_model_its_loading_and_its_readiness_are_shown() -> None:
    metrics, ready = Metrics(), [False]
    metrics.watch_readiness(lambda: ready[0])
    metrics.note_loading(0.25)
    assert {"mmes_ready 0.0", "mmes_load_progress 0.25"} <= set(lines(metrics))
    ready[0] = True
    metrics.note_loaded(3.5)
    metrics.describe_model("CLIP/clip-vit-b-32", "CPU", "openvino", "f16", 512, "fa4e-f32")
    page = lines(metrics)
    assert {"mmes_ready 1.0", "mmes_load_progress 1.0", "mmes_load_seconds 3.5"} <= set(page)
    (info,) = [line for line in page if line.startswith("mmes_info{")]
    for label in ('model="CLIP/clip-vit-b-32"', 'fingerprint="fa4e-f32"', 'dimension="512"'):
        assert label in info
    assert info.endswith(" 1.0")


def test_no_series_says_when_another_was_created() -> None:
    metrics = Metrics()
    metrics.count_response("/embeddings", 200, 0.1)
    assert not [line for line in lines(metrics) if "_created" in line]


def test_two_sets_of_metrics_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.count_error("not_found")
    assert not any("not_found" in line for line in lines(second))
