"""What a user installs: one package, one command, the licence, and nothing that only developers need."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ROOMS = ("vq", "data_prep", "lm", "training", "planning", "serve", "scripts", "vqlm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    leave_out = shutil.ignore_patterns(".*", "build", "dist", "outputs", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=leave_out)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), folder / "source"]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("vqlm-*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel in it, which sees the other packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    (packages,) = folder.glob("lib/*/site-packages")
    # What a .pth names is only searched: the editable installation of this environment stays behind.
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")
    return folder


@pytest.fixture
def littered_folder(tmp_path) -> Path:
    """A working folder with modules of the user's own under names that ours have inside."""
    folder = tmp_path / "working"
    for name in (
        "training.py",
        "lm.py",
        "data_prep.py",
        "vq/__init__.py",
        "scripts/__init__.py",
        "configs/__init__.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"raise AssertionError('{name} of the user was imported')\n")
    return folder


def test_the_wheel_ships_the_package_only(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name]
    modules = {path for room in ROOMS for path in (ROOT / room).rglob("*.py*") if "__pycache__" not in path.parts}
    expected = {f"vqlm/{path.relative_to(ROOT)}".replace("vqlm/vqlm/", "vqlm/") for path in modules}
    page = [path for path in (ROOT / "serve" / "page").iterdir() if path.suffix in (".css", ".js", ".html")]
    assert len(page) > 5
    expected |= {f"vqlm/serve/page/{path.name}" for path in page}
    expected |= {"vqlm/py.typed"}
    expected |= {f"vqlm/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert set(names) == expected
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_an_installation_adds_one_name_and_one_command(environment):
    (packages,) = environment.glob("lib/*/site-packages")
    added = {path.name for path in packages.iterdir()} - {"shared.pth"}
    assert {name for name in added if not name.endswith(".dist-info")} == {"vqlm"}
    assert len(added) == 2
    assert (environment / "bin" / "vqlm").exists()


@pytest.mark.parametrize("kind", ["installed", "installed module", "installed, accelerate launch", "checkout"])
def test_modules_of_the_user_are_left_alone(kind, environment, littered_folder):
    """Help, an import, and a tiny stage, from the wheel and from the checkout by path."""
    python = str(environment / "bin" / "python") if kind.startswith("installed") else sys.executable
    vqlm = {"installed": [str(environment / "bin" / "vqlm")], "installed module": [python, "-m", "vqlm"]}.get(kind)
    train_vq = [python, str(ROOT / "scripts" / "train_vq.py")] if vqlm is None else [*vqlm, "train-vq"]
    if kind.endswith("accelerate launch"):
        launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
        train_vq = [python, *launch, "-m", "vqlm.scripts.train_vq"]

    def run(*command: object) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=littered_folder, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "train-lm" in run(*(vqlm or [python, "-m", "vqlm"]), "--help")
    imported = run(python, "-c", "import vqlm; from vqlm import VQVAE, TextToImagePipeline; print(vqlm.__file__)")
    assert Path(imported.strip()).is_relative_to(environment) == kind.startswith("installed")
    pictures = littered_folder / "pictures"
    pictures.mkdir()
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 100, 50)).save(pictures / f"{number}.png")
    lines = [f"{number}.png,a colour" for number in range(12)]
    (pictures / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]) + "\n")
    run(
        *train_vq, "--data", "pictures", "--output", "vq_model", "--max-steps", 2, "--batch-size", 4,
        "--network.input-shape", "[16,16]", "--network.hidden-channels", 16, "--quantizer.codebook-size", 8,
    )  # fmt: skip
    assert (littered_folder / "vq_model" / "model.safetensors").exists()


def test_the_configs_of_the_demo_are_installed(environment, tmp_path):
    program = (
        "from vqlm.scripts.demo import CONFIGS; print(*sorted(path.name for path in (CONFIGS / 'demo').iterdir()))"
    )
    command = [environment / "bin" / "python", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["train_lm.yaml", "train_vq.yaml"]
