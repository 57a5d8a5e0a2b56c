"""Many clients at once: the same pictures as alone, a bounded queue, deadlines, clients that leave, a clean stop."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from serving import build_pipeline, generators, opened, png, running, same

from vqlm.serve.jobs import ServedModel, partial_steps
from vqlm.serve.settings import ServeConfig

pytestmark = pytest.mark.slow

PROMPTS = ("red square", "green circle", "blue square", "red")
SETTINGS = (
    {},
    {"guidance_scale": 1.0},
    {"temperature": 0.0},
    {"guidance_scale": 3.0, "guidance_schedule": "cosine"},
    {"top_k": 3},
)


def request_of(number: int) -> dict:
    return {"prompt": PROMPTS[number % 4], "seed": number, **SETTINGS[number % 5]}


def test_a_seed_gives_the_same_picture_under_load(server, pipe):
    """48 requests of mixed settings from 12 clients, edits among them, more than there are slots."""
    picture = png(pipe("red", generator=generators(0)).images[0])

    def ask(number: int) -> bytes:
        if number % 6 == 5:
            answer = server.post(
                "edits", data={"prompt": "red", "seed": str(number), "candidates": "2"}, files={"image": picture}
            )
        else:
            answer = server.post(json=request_of(number))
        assert answer.status_code == 200, answer.text
        return answer.json()["data"][0]["b64_json"]

    with ThreadPoolExecutor(12) as pool:
        drawn = list(pool.map(ask, range(48)))
    for number, answer in enumerate(drawn):
        if number % 6 == 5:
            expected = pipe.vary(opened_png(picture), "red", share=0.5, candidates=2, generator=generators(number))
        else:
            given = request_of(number)
            seed = given.pop("seed")
            expected = pipe(given.pop("prompt"), generator=generators(seed), **given)
        assert same(opened(answer), expected.images[0]), number
    assert server.service.engine.load.used_slots == 0


def opened_png(file: bytes):
    import io

    from PIL import Image

    return Image.open(io.BytesIO(file))


def slow(pipe, seconds: float):
    """A pipeline whose every step takes so long at least. With a hook it draws through the stock forward."""
    pipe.model.model.layers[0].register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return pipe


@pytest.fixture
def slow_model() -> ServedModel:
    return ServedModel("slow", slow(build_pipeline(), 0.1))


def test_a_full_queue_and_its_advice(slow_model, until):
    with running([slow_model], ServeConfig(port=0, max_slots=2, max_queue=1)) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, json={"prompt": "red"})
        until(lambda: server.service.engine.load.running_requests == 1)
        second = pool.submit(server.post, json={"prompt": "red"})
        until(lambda: server.service.engine.load.queued_requests == 1)
        third = server.post(json={"prompt": "red"})
        assert third.status_code == 429
        assert third.json()["error"]["code"] == "queue_full"
        assert int(third.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            server.client().images.generate(prompt="red")
        assert (first.result().status_code, second.result().status_code) == (200, 200)


def test_a_deadline(slow_model):
    with running([slow_model], ServeConfig(port=0, timeout=0.5)) as server:
        answer = server.post(json={"prompt": "red"})
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        with pytest.raises(openai.APIError) as error:
            list(server.client().images.generate(prompt="red", stream=True))
        assert error.value.code == "deadline_exceeded"
        assert server.service.engine.load.used_slots == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_rows(slow_model, until, stream):
    with running([slow_model], ServeConfig(port=0)) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.url}/v1/images/generations",
                json={"prompt": "red", "n": 4, "stream": stream},
                timeout=httpx.Timeout(60, read=0.5),
            )
        until(lambda: server.service.engine.load.used_slots == 0)
        until(lambda: server.metric("vqlm_disconnects_total") == 1)
        assert server.metric("vqlm_pictures_total") == 0


def test_the_stop_finishes_what_runs(slow_model, until):
    answers = []
    with running([slow_model], ServeConfig(port=0)) as server:
        thread = threading.Thread(target=lambda: answers.append(server.post(json={"prompt": "red"})))
        thread.start()
        until(lambda: server.service.engine.load.running_requests == 1)
    thread.join()
    assert answers[0].status_code == 200
    assert not server.service.engine.is_alive


def test_metrics(server):
    before = server.metric("vqlm_pictures_total")
    server.post(json={"prompt": "red", "n": 2})
    assert server.metric("vqlm_pictures_total") == before + 2
    assert server.metric("vqlm_used_slots") == 0
    assert server.metric('vqlm_requests_total{endpoint="/v1/images/generations",status="200"}') > 0


def test_partial_pictures_come_early():
    assert partial_steps(0, 64) == []
    assert partial_steps(1, 64) == [8]
    assert partial_steps(3, 64) == [8, 27, 45]
    assert partial_steps(3, 1) == [1, 1, 1]


def test_the_description_is_kept_by_the_server(server):
    """Requests that Schemathesis makes of the OpenAPI description: no answer of 5xx, none outside the description."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/images/generations", "/v1/images/edits", "/v1/models"}
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in ("not_a_server_error", "status_code_conformance")]
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=8, deadline=None, phases=[Phase.generate], database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case):
            case.call_and_validate(checks=checks)

        check()
    assert json.loads(httpx.get(f"{server.url}/health").text)["status"] == "ok"
