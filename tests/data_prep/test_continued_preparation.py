"""Prepared sets that are prepared again, continued after a kill, and refused."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

from tests.data_prep.test_preparation import contents, make, shards_of
from vqlm.data_prep import (
    PreparedSet,
    TextConfig,
    ViewConfig,
    Vocabulary,
    encoding as encoding_module,
    load_collection,
)  # fmt: skip
from vqlm.training.errors import UserError
from vqlm.training.folders import folder_lock


def test_resume_returns_the_same(prepared, collection, tiny_vqvae):
    before = contents(prepared.folder)
    again = make(collection, tiny_vqvae, prepared.folder, resume=True)
    assert again.manifest == prepared.manifest
    assert again.train["codes"][:] == prepared.train["codes"][:]
    assert contents(prepared.folder) == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"text": TextConfig(size=270)}, "text.size"), ({"views": ViewConfig(2, 0.5)}, "views.views")],
)
def test_resume_with_other_settings(prepared, collection, tiny_vqvae, changed, named):
    before = contents(prepared.folder)
    with pytest.raises(UserError, match=f"holds another run: its `{named}` is"):
        make(collection, tiny_vqvae, prepared.folder, resume=True, **changed)
    assert contents(prepared.folder) == before


def test_resume_with_a_path_that_is_written_differently(prepared, picture_folder, tiny_vqvae):
    again = load_collection(f"{picture_folder}/../{picture_folder.name}/", 16)
    assert make(again, tiny_vqvae, prepared.folder, f"{picture_folder}/", resume=True).manifest == prepared.manifest


def test_resume_on_a_picture_that_was_replaced_by_one_of_the_same_size(prepared, picture_folder, tiny_vqvae):
    picture = picture_folder / "red-square-2.png"
    status = picture.stat()
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    with pytest.raises(UserError, match="holds another run: its `collection` is"):
        make(load_collection(str(picture_folder), 16), tiny_vqvae, prepared.folder, resume=True)


def test_resume_with_another_image_tokenizer(prepared, collection, other_vqvae):
    with pytest.raises(UserError, match="its `image_tokenizer` is"):
        make(collection, other_vqvae, prepared.folder, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_files_is_untouched(collection, tiny_vqvae, tmp_path, resume):
    output = tmp_path / "data"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="already holds files"):
        make(collection, tiny_vqvae, output, resume=resume)
    assert contents(output) == {"thesis.txt": b"years of work"}


def test_a_finished_set_is_not_written_over(prepared, collection, tiny_vqvae):
    before = contents(prepared.folder)
    with pytest.raises(UserError, match="already holds files"):
        make(collection, tiny_vqvae, prepared.folder)
    assert contents(prepared.folder) == before


class Killed(BaseException):
    """Ends everything at once, as SIGKILL does."""


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_a_killed_preparation_goes_on(in_parts, tiny_vqvae, tmp_path, monkeypatch, count):
    """Killed when `count` files of rows have been begun."""
    make(in_parts, tiny_vqvae, tmp_path / "whole")
    begun = iter(range(100))

    class Dying(encoding_module._SplitFile):
        def __init__(self, *arguments):
            if next(begun) == count:
                raise Killed
            super().__init__(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoding_module, "_SplitFile", Dying)
        with pytest.raises(Killed):
            make(in_parts, tiny_vqvae, tmp_path / "parts")
    with pytest.raises(UserError, match=r"parts is not finished; continue preparing it with `resume`"):
        PreparedSet.load(tmp_path / "parts")
    kept = {path.name: path.stat().st_ino for path in (tmp_path / "parts" / "shards").glob("??????")}
    make(in_parts, tiny_vqvae, tmp_path / "parts", resume=True)
    assert shards_of(tmp_path / "parts") == shards_of(tmp_path / "whole")
    assert {name: (tmp_path / "parts" / "shards" / name).stat().st_ino for name in kept} == kept  # not made twice


HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_program_is_kept_out(in_parts, tiny_vqvae, tmp_path, monkeypatch):
    """It continues what another program, which still runs, is making."""
    whole, output = make(in_parts, tiny_vqvae, tmp_path / "whole"), tmp_path / "data"
    shutil.copytree(whole.folder, output)
    (output / "manifest.json").unlink()
    shutil.rmtree(output / "shards" / "000003")
    before = contents(output)
    monkeypatch.setattr(folder_lock, "LOCK_PATIENCE", 0.1)
    command = [sys.executable, "-c", HOLD_LOCK, str(output / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another program writes to .*data; wait until it has ended"):
            make(in_parts, tiny_vqvae, output, resume=True)
        assert contents(output) == before | {"lock": b""}
        other.kill()
    make(in_parts, tiny_vqvae, output, resume=True)
    assert shards_of(output) == shards_of(whole.folder)
    assert not (output / "lock").exists()


def test_killed_before_the_first_shard(collection, tiny_vqvae, tmp_path, monkeypatch):
    def die(*_):
        raise Killed

    for part in ("build", "save_pretrained"):
        with monkeypatch.context() as patch:
            patch.setattr(Vocabulary, part, die)
            with pytest.raises(Killed):
                make(collection, tiny_vqvae, tmp_path / "data", resume=True)
    assert len(make(collection, tiny_vqvae, tmp_path / "data", resume=True).train) > 0


def test_a_full_disk_loses_nothing(in_parts, tiny_vqvae, tmp_path, monkeypatch):
    written = iter(range(1000))

    def write(file, content):
        if next(written) > 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        file.digest.update(content)
        return file.file.write(content)

    with monkeypatch.context() as patch:
        patch.setattr(encoding_module._SplitFile, "write", write)
        with pytest.raises(
            UserError, match=r"disk of .*shards is full\. .* free some space and continue with `resume`"
        ):
            make(in_parts, tiny_vqvae, tmp_path / "data")
    shards = tmp_path / "data" / "shards"
    assert list(shards.glob("*.tmp")) == []
    kept = {path.name: path.stat().st_ino for path in shards.iterdir()}
    assert 0 < len(kept) < 6
    prepared = make(in_parts, tiny_vqvae, tmp_path / "data", resume=True)
    assert sum(prepared.manifest["splits"].values()) == 24
    assert {name: (shards / name).stat().st_ino for name in kept} == kept
