"""Collections through the real scripts: killed and continued, on two processes, inspected."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from vqlm.training.folders.whole_files import read_json

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture
def tars(tmp_path) -> Path:
    """24 tars of 20 pictures each."""
    import io
    import tarfile

    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(24):
        with tarfile.open(folder / f"{shard:02}.tar", "w") as archive:
            for number in range(20):
                file = io.BytesIO()
                Image.new("RGB", (16, 16), (shard * 10, number * 10, 100)).save(file, "PNG")
                for name, content in ((f"{number}.png", file.getvalue()), (f"{number}.txt", b"a colour")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture
def image_tokenizer(tiny_vqvae, tmp_path) -> Path:
    tiny_vqvae.save_pretrained(tmp_path / "vq")
    return tmp_path / "vq"


def command(tars: Path, image_tokenizer: Path, output: Path) -> list[str]:
    return [
        str(SCRIPT), "--data", str(tars), "--image-tokenizer", str(image_tokenizer), "--output", str(output),
        "--text.size", "280", "--resume",
    ]  # fmt: skip


def checksums(output: Path) -> list[dict]:
    return read_json(output / "manifest.json")["shards"]


def test_killed_and_continued_equals_undisturbed_and_so_do_two_processes(tars, image_tokenizer, tmp_path):
    undisturbed, killed, shared = (tmp_path / name for name in ("undisturbed", "killed", "shared"))
    subprocess.run([sys.executable, *command(tars, image_tokenizer, undisturbed)], check=True, capture_output=True)
    for wanted in (1, 9):
        run = subprocess.Popen(
            [sys.executable, *command(tars, image_tokenizer, killed)], start_new_session=True, stderr=subprocess.DEVNULL
        )
        while run.poll() is None and len(list((killed / "shards").glob("??????"))) < wanted:
            time.sleep(0.002)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert not (killed / "manifest.json").exists()
    subprocess.run([sys.executable, *command(tars, image_tokenizer, killed)], check=True, capture_output=True)
    assert checksums(killed) == checksums(undisturbed)
    assert len(checksums(killed)) == 24
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [sys.executable, *launch, *command(tars, image_tokenizer, shared)], check=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert checksums(shared) == checksums(undisturbed)


def test_an_inspection_ends_with_what_it_found(start_script, picture_folder, tmp_path):
    done = start_script("inspect_data", "--data", picture_folder, "--output", tmp_path / "out", "--image-size", 16)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "inspection.md").read_text()
    assert text in done.stdout
    assert "| pictures that can be used | 24 |" in text
    assert (tmp_path / "out" / "unusable.jsonl").read_text() == ""
    assert Image.open(tmp_path / "out" / "samples.png").width > 100
    (picture_folder / "red-square-2.png").write_bytes(b"")
    done = start_script("inspect_data", "--data", picture_folder, "--output", tmp_path / "bad")
    assert done.returncode == 1
    assert "**wrong**: 1 of 24 pictures cannot be used" in done.stdout
    assert "red-square-2.png" in (tmp_path / "bad" / "unusable.jsonl").read_text()
    done = start_script("inspect_data", "--data", tmp_path / "nowhere", "--output", tmp_path / "none")
    assert done.returncode == 2
