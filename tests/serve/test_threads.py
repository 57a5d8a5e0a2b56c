"""Whatever computes beside the engine does so in a thread that ends: two that stay would make each other slow."""

import threading

import pytest
import torch
from serving import png

from vqlm.lm import TextToImagePipeline
from vqlm.lm.decoding.stepper import Stepper
from vqlm.serve.engine import Engine
from vqlm.serve.server import load_models
from vqlm.serve.threads import in_passing_thread
from vqlm.vq import VQVAE


@pytest.fixture
def threads_of(monkeypatch):
    """threads_of(owner, name): the threads in which that callable is called from now on."""

    def record(owner: type, name: str) -> list[threading.Thread]:
        threads, original = [], getattr(owner, name)

        def recorded(*args, **kwargs):
            threads.append(threading.current_thread())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)
        return threads

    return record


def test_the_thread_ends_with_the_call():
    thread = in_passing_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()
    with pytest.raises(ZeroDivisionError):
        in_passing_thread(lambda: 1 / 0)


def test_models_are_loaded_and_their_caches_built_in_threads_that_end(pipe, threads_of, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loading, building = threads_of(TextToImagePipeline, "from_pretrained"), threads_of(Stepper, "__init__")
    engine = Engine(load_models([tmp_path / "model"]), max_slots=2, max_queue=1)
    engine.stop()
    assert len(loading) == len(building) == 1
    assert not any(thread is threading.main_thread() or thread.is_alive() for thread in loading + building)


def test_uploads_are_encoded_in_threads_that_end(server, pipe, threads_of):
    encoding = threads_of(VQVAE, "encode")
    picture = png(pipe.decode(torch.zeros(1, *pipe.image_tokenizer.config.code_shape, dtype=torch.int64))[0])
    answer = server.post("edits", data={"prompt": "red"}, files={"image": picture})
    assert answer.status_code == 200, answer.text
    assert encoding
    assert not any(thread.is_alive() for thread in encoding)
