"""One server for all tests of the API, on loopback, with a small untrained model."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

for package in ("fastapi", "uvicorn", "multipart", "prometheus_client", "openai", "httpx"):
    pytest.importorskip(package, reason=f"the server's tests need {package}; install the extra dev")

sys.path.insert(0, str(Path(__file__).parent))  # for serving.py

import openai  # noqa: E402
from serving import Running, build_pipeline, running  # noqa: E402

from vqlm.lm import TextToImagePipeline  # noqa: E402
from vqlm.serve.jobs import ServedModel  # noqa: E402
from vqlm.serve.settings import ServeConfig  # noqa: E402


@pytest.fixture(scope="package")
def pipe() -> TextToImagePipeline:
    return build_pipeline()


@pytest.fixture(scope="package")
def server(pipe) -> Iterator[Running]:
    captioning = ServedModel("captions", build_pipeline(1, can_caption=True))
    config = ServeConfig(port=0, aliases=["gpt-image-1=tiny"], max_body=2**20, max_pixels=2**20, max_slots=24)
    with running([ServedModel("tiny", pipe), captioning], config) as started:
        yield started


@pytest.fixture
def client(server) -> openai.OpenAI:
    return server.client()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for something to become true."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)

    return wait
