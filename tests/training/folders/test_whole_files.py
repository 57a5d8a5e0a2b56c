"""JSON files that are whole or absent, and folders that are not overwritten."""

import json
import os
import resource

import pytest
import torch

from vqlm.training.errors import UserError
from vqlm.training.folders.output_folder import require_empty, require_output, require_writable  # fmt: skip
from vqlm.training.folders.same_run import is_same_place, require_same_settings
from vqlm.training.folders.whole_files import read_json, write_failure, write_json, write_notice


def test_json_there_and_back(tmp_path):
    path, value = tmp_path / "new" / "folder" / "value.json", {"name": "Grün", "sizes": [1, 2.5, None]}
    write_json(path, value)
    assert read_json(path) == value
    assert "Grün" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["value.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        write_json(path, {"step": object()})
    assert read_json(path) == {"step": 1}


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    write_json(path, {"step": 1})

    def crash(source, target):
        assert json.loads(source.read_text()) == {"step": 2}  # whole before it takes the old one's place
        raise OSError("no power")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no power"):
        write_json(path, {"step": 2})
    assert read_json(path) == {"step": 1}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"value\.json is missing; check that .* is the right folder"):
        read_json(tmp_path / "value.json")


def test_half_a_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "value.json"
    path.write_text('{"step": 1,\n "epoch": ')
    with pytest.raises(UserError, match=r"value\.json is not JSON \(Expecting value, line 2\)"):
        read_json(path)


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "value.json"
    path.write_bytes(b'{"name": "Gr\xfcn"}')
    with pytest.raises(UserError, match=r"value\.json is not JSON \(not UTF-8\); run the stage"):
        read_json(path)


@pytest.mark.parametrize("room", [0, 1, 500, 4096, 30_000, 70_000])
def test_torchs_words_for_a_full_disk_are_known(tmp_path, room):
    """The system lets no file grow beyond `room` bytes meanwhile; torch says that in several ways, none an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(RuntimeError) as error:
            torch.save({"weights": torch.zeros(20_000)}, tmp_path / "optimizer.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert write_failure(error.value) == "torch could not write a whole file, as on a full disk"


def test_another_error_of_torch_is_none_of_the_disk():
    with pytest.raises(RuntimeError, match="out of memory"):
        write_failure(RuntimeError("CUDA out of memory"))


def test_the_advice_names_resume_only_where_it_exists(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"already holds files; choose another `output`\.$"):
        require_empty(tmp_path, can_resume=False)
    with pytest.raises(UserError, match=r"already holds files; choose another `output`\.$"):
        require_output(tmp_path, can_resume=False)


def test_the_beginning_of_a_run_may_be_started_over(tmp_path):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    for name in ("lock", "settings.json", "log.jsonl"):
        (tmp_path / "run" / name).touch()
    require_output(tmp_path)
    with pytest.raises(UserError, match="already holds files"):
        require_output(tmp_path, can_resume=False)  # of what is no training
    (tmp_path / "run" / "checkpoint").mkdir()
    with pytest.raises(UserError, match="already holds files; continue the run in it with `resume`"):
        require_output(tmp_path)


def test_only_an_empty_folder_is_empty(tmp_path):
    require_empty(tmp_path / "absent")
    require_empty(tmp_path)
    file = tmp_path / "file"
    file.touch()
    for full in (tmp_path, file):
        with pytest.raises(UserError, match=f"{full} already holds files; .* `resume`, or choose another `output`"):
            require_empty(full)


def test_the_setting_that_differs_is_named(tmp_path):
    require_same_settings(tmp_path, {"seed": 1, "width": 8}, {"width": 8, "seed": 1})
    for earlier, now, message in (
        ({"seed": 1, "width": 8}, {"seed": 1, "width": 9}, "its `width` is 8, now 9"),
        ({"seed": 1}, {"seed": 1, "width": 9}, "its `width` is None, now 9"),
        ({"seed": 1, "width": 8}, {"seed": 1}, "its `width` is 8, now None"),
    ):
        with pytest.raises(UserError, match=message):
            require_same_settings(tmp_path, earlier, now)


@pytest.mark.parametrize("attribution", [None, ""])
def test_no_notice_without_an_attribution(tmp_path, attribution):
    write_notice(tmp_path, attribution)
    assert list(tmp_path.iterdir()) == []


def test_notice_holds_the_attribution(tmp_path):
    write_notice(tmp_path, "by A, CC BY 4.0")
    assert (tmp_path / "NOTICE").read_text(encoding="utf-8") == "by A, CC BY 4.0\n"


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match="link is a link to nowhere, which does not exist"):
        require_writable(tmp_path / "link")
    require_writable(tmp_path / "new" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]

    def refuse(**_):
        raise OSError  # as /proc does, which seems to allow it

    monkeypatch.setattr("vqlm.training.folders.output_folder.tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match="is read-only for this user"):
        require_writable(tmp_path / "new")


def test_the_same_place_written_otherwise(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    for written in ("a", "./a/", "link", str(tmp_path / "a")):
        assert is_same_place(written, str(tmp_path / "a"))
        require_same_settings(tmp_path, {"init_from": "a"}, {"init_from": written})
    (tmp_path / "b").mkdir()
    assert not is_same_place("a", "b")
    assert not is_same_place("none", "none")
    assert not is_same_place(3, 3)
    with pytest.raises(UserError, match="its `init_from` is 'a', now 'b'"):
        require_same_settings(tmp_path, {"init_from": "a"}, {"init_from": "b"})
