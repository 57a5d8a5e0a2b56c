"""What every test shares: checked shapes and types, a fixed seed, a small VQ-VAE and a small folder of pictures."""

import sys
from pathlib import Path

from jaxtyping import config, install_import_hook

# Before anything of ours is imported: from here on a wrong shape or type in a signature fails the test.
sys.path.insert(0, str(Path(__file__).parent))
install_import_hook(["vqlm"], "checked_types.check")

import csv  # noqa: E402
import os  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig  # noqa: E402

# transformers gives its configurations an __init__ that also takes keys that are no fields, such as model_type in a
# config.json; the hook's check of a dataclass would refuse them.
VQVAEConfig.__init__ = VQVAEConfig.__init__.__wrapped__

# Tiny tensors gain nothing from many threads, and a second program on the cores makes them wait for one another.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that tests start


def pytest_configure(config) -> None:
    """The suite compares bits, which a GPU adds up in another order each time: it runs on the CPU. `-m cuda` runs the
    tests of what a GPU does, alone."""
    config.addinivalue_line("markers", "cuda: needs a GPU of CUDA; `make test-cuda` runs these alone")
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# Rooms whose tests take long together: run them by their folder while you work on one.
SLOW_ROOMS = [Path(__file__).parent / room for room in ("docs", "serve", "lm/decoding")]
SLOW_FILES = ("test_batch_size.py", "test_report_page.py", "test_docstrings.py", "test_cost.py")


def _is_slow(path: Path) -> bool:
    return path.name in SLOW_FILES or any(path.is_relative_to(room) for room in SLOW_ROOMS)


def pytest_ignore_collect(collection_path: Path, config) -> bool | None:
    """Files that `-m` leaves out as a whole are not even imported."""
    for mark in ("slow", "cuda"):
        if f"not {mark}" not in config.option.markexpr:
            continue
        if mark == "slow" and _is_slow(collection_path):
            return True
        is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
        if is_test and f"\npytestmark = pytest.mark.{mark}\n" in collection_path.read_text(encoding="utf-8"):
            return True
    return None


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU of CUDA"))


COLOURS = ("red", "green", "blue", "black", "orange", "purple")
PICTURE_SIDE = 16


@pytest.fixture(autouse=True)
def _fresh_state():
    """The same random numbers in every test, and no accelerator left over from the last one."""
    _reset_accelerate()
    torch.manual_seed(0)
    yield
    _reset_accelerate()


def _reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def unchecked_types():
    """For tests of our own message for a value of the wrong type, which the hook above would refuse before it."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def tiny_vqvae_config() -> VQVAEConfig:
    """16x16 RGB -> codes (4, 4), 16 of them, 4 wide."""
    return VQVAEConfig(
        network=NetworkConfig(
            input_shape=[PICTURE_SIDE, PICTURE_SIDE],
            strides=[2, 2],
            stem_channels=8,
            hidden_channels=16,
            num_residual_layers=1,
        ),
        quantizer=VQConfig(codebook_size=16, codebook_dim=4),
    )


@pytest.fixture
def tiny_vqvae(tiny_vqvae_config: VQVAEConfig) -> VQVAE:
    """An untrained VQ-VAE in evaluation mode, whose codebook starts from its own outputs so that many codes occur."""
    model = VQVAE(tiny_vqvae_config).eval()
    model.quantizer.initialize(model.encode_continuous(torch.rand(8, 3, PICTURE_SIDE, PICTURE_SIDE) * 2 - 1))
    return model


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """24 pictures, 16x16, of coloured squares and circles on white, with captions such as "red square"."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for colour in COLOURS:
        for shape in ("square", "circle"):
            for margin in (2, 4):
                name = f"{colour}-{shape}-{margin}.png"
                _draw(colour, shape, margin).save(folder / name)
                rows.append({"file_name": name, "caption": f"{colour} {shape}"})
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file_name", "caption"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def demo_pipeline(tmp_path: Path, tiny_vqvae: VQVAE, monkeypatch):
    """An untrained pipeline that captions. The working folder has it in outputs/demo/model, and picture.png."""
    from vqlm.data_prep import Vocabulary
    from vqlm.lm import LanguageModelConfig, TextToImagePipeline
    from vqlm.lm.model import build_language_model
    from vqlm.lm.model_folder.settings import ModelFolderSettings

    vocabulary = Vocabulary.train(["red heart", "blue square"] * 3, 300, {"image": 16})
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = build_language_model(LanguageModelConfig(**sizes), vocabulary, 64)
    pipeline = TextToImagePipeline(model, vocabulary, tiny_vqvae, ModelFolderSettings(can_caption=True))
    pipeline.save_pretrained(tmp_path / "outputs" / "demo" / "model")
    Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), "red").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    return pipeline


def _draw(colour: str, shape: str, margin: int) -> Image.Image:
    picture = Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), "white")
    box = [margin, margin, PICTURE_SIDE - 1 - margin, PICTURE_SIDE - 1 - margin]
    pen = ImageDraw.Draw(picture)
    (pen.rectangle if shape == "square" else pen.ellipse)(box, fill=colour)
    return picture
