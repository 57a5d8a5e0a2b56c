"""What a person sees who asks for something wrong: one sentence, and nothing written."""

import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def assert_one_clear_line(done, said: str) -> None:
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.fixture
def bare_folder(tmp_path):
    """Pictures without captions."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(folder / name)
    return folder


def test_pictures_without_captions(start_script, bare_folder, tmp_path):
    done = start_script("inspect_data", "--data", bare_folder, "--output", tmp_path / "inspection")
    assert_one_clear_line(done, "pictures without a caption")
    assert not (tmp_path / "inspection").exists()


def test_an_unknown_key_in_a_config_file(start_script, picture_folder, vq_yaml, tmp_path):
    vq_yaml.write_text(vq_yaml.read_text() + "quantiser:\n  codebook_size: 8\n")
    done = start_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq")
    assert_one_clear_line(done, "quantiser")
    assert not (tmp_path / "vq").exists()


def test_a_codebook_of_no_codes(start_script, picture_folder, tmp_path):
    done = start_script(
        "train_vq", "--data", picture_folder, "--output", tmp_path / "vq", "--quantizer.codebook-size", 0
    )
    assert_one_clear_line(done, "--quantizer.codebook-size must be at least 1, found 0")
    assert not (tmp_path / "vq").exists()


def test_a_folder_that_is_no_model(start_script, bare_folder, tmp_path):
    done = start_script("generate", "--model", bare_folder, "--prompt", "red square", "--output", tmp_path / "new.png")
    assert_one_clear_line(done, "text_to_image.json is missing")
    assert not (tmp_path / "new.png").exists()


def test_an_output_that_holds_another_run(start_script, picture_folder, vq_yaml, tmp_path):
    output = tmp_path / "vq"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    done = start_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", output)
    assert_one_clear_line(done, "already holds files")
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]
    assert (output / "thesis.txt").read_text() == "years of work"
