"""A real server on loopback with a small untrained model, and what clients need to reach it."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import httpx
import openai
import torch
import uvicorn
from PIL import Image

from vqlm.data_prep import Vocabulary
from vqlm.lm import LanguageModelConfig, SamplingConfig, TextToImagePipeline
from vqlm.lm.model import build_language_model
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.serve.jobs import ServedModel
from vqlm.serve.server import uvicorn_config
from vqlm.serve.settings import ServeConfig
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig

SIDE, MAX_TOKENS = 16, 24


def build_pipeline(seed: int = 0, can_caption: bool = False) -> TextToImagePipeline:
    """Pictures of 16x16 with 4x4 codes of 16; guidance and a cut by default."""
    torch.manual_seed(seed)
    network = NetworkConfig(
        input_shape=[SIDE, SIDE], strides=[2, 2], stem_channels=8, hidden_channels=16, num_residual_layers=1
    )
    vqvae = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16, codebook_dim=4))).eval()
    vqvae.quantizer.initialize(vqvae.encode_continuous(torch.rand(8, 3, SIDE, SIDE) * 2 - 1))
    vocabulary = Vocabulary.train(["red square", "green circle", "blue square"] * 3, 300, {"image": 16})
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LanguageModelConfig(architecture="llama", extra={"initializer_range": 0.3}, **sizes)
    settings = ModelFolderSettings(
        sampling=SamplingConfig(guidance_scale=1.5, min_p=0.05), max_caption_tokens=MAX_TOKENS, can_caption=can_caption
    )
    return TextToImagePipeline(build_language_model(config, vocabulary, 64), vocabulary, vqvae, settings)


@dataclass
class Running:
    """A server that runs, and what is inside it."""

    url: str
    service: SimpleNamespace  # a vqlm.serve.app.Service
    server: uvicorn.Server

    def client(self, key: str = "none", **more) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **more)

    def post(self, path: str = "generations", **given) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/images/{path}", timeout=300, **given)

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextmanager
def running(models: list[ServedModel], config: ServeConfig) -> Iterator[Running]:
    """A server at a free port, until the block ends."""
    settings = uvicorn_config(models, config)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", settings.app.state.service, server)  # type: ignore[union-attr]
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


def opened(b64_json: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json or "")))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.convert("RGB").tobytes() == other.convert("RGB").tobytes()


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
