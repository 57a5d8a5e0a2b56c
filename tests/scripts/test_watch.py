"""`vqlm watch`: its page, for the folder of a stage and of a `vqlm train`, while it goes on and afterwards."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from vqlm.scripts.watch import main, make_server
from vqlm.training.errors import UserError
from vqlm.training.watching.log_curves import chart_of, curves_of, draw_chart
from vqlm.training.watching.watch_page import watch_page

LINES = [
    {"step": 50, "seconds": 10.0, "share": 0.25, "loss": 3.0, "image_nll": 4.0, "rows_per_second": 100.0},
    {"step": 60, "seconds": 12.0, "share": 0.3, "skipped": "model", "rows": [3, 4]},
    {"step": 100, "seconds": 20.0, "share": 0.5, "held_out_image_nll": 3.5},
    {"step": 100, "seconds": 20.0, "share": 0.5, "loss": 2.0, "image_nll": 3.0, "rows_per_second": float("nan")},
]


def write_run(stage: Path, lines: list[dict] = LINES) -> Path:
    """A `run/` as a training writes it, its log in the middle of a line."""
    run = stage / "run"
    (run / "samples").mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1')
    Image.new("RGB", (20, 20), "red").save(run / "samples" / "strip.png")
    (run / "samples" / "names.json").write_text(json.dumps(["a <red> heart"]))
    return run


def test_the_page_of_a_stage(tmp_path):
    run = write_run(tmp_path / "model")
    page = watch_page(tmp_path / "model", seconds=5.0)
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "step 100; 0:20 of training; 50%, about 0:20 left" in page
    assert "1 step skipped for a gradient that is not finite, the last step 60 (model)" in page
    assert "a &lt;red&gt; heart" in page
    assert 'src="data:image/png;base64,' in page
    assert [title for title in ("loss", "image_nll", "rows_per_second") if f'aria-label="{title}"' in page] == [
        "loss", "image_nll", "rows_per_second",
    ]  # fmt: skip
    assert "http://" not in page
    assert "https://" not in page
    (run / "summary.json").write_text("{}")
    page = watch_page(tmp_path / "model", seconds=5.0)
    assert "refresh" not in page
    assert "finished" in page


def test_the_page_of_all_stages(tmp_path):
    output = tmp_path / "mine"
    (output / "plan").mkdir(parents=True)
    assert "No stage has begun yet" in watch_page(output)
    write_run(output / "model")
    write_run(output / "image_tokenizer", [])
    page = watch_page(output)
    assert "Stage one" in page
    assert "Stage two" in page
    assert "the first line of its log is still to come" in page


def test_a_folder_without_a_training_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="holds no training; give the `output` of vqlm train"):
            watch_page(folder)


def test_held_out_figures_share_a_chart_with_those_of_training():
    assert [chart_of(name) for name in ("psnr", "held_out_psnr_db")] == ["psnr", "psnr"]
    assert chart_of("novel_image_nll") == "image_nll"
    assert curves_of(LINES) == {
        "loss": {"loss": [(50, 3.0), (100, 2.0)]},
        "image_nll": {"image_nll": [(50, 4.0), (100, 3.0)], "held_out_image_nll": [(100, 3.5)]},
        "rows_per_second": {"rows_per_second": [(50, 100.0)]},
    }


@pytest.mark.parametrize(
    "curve", [[(1.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(float(step), step**0.5) for step in range(5000)]]
)
def test_a_chart_is_svg_of_few_points_within_its_box(curve):
    chart = ElementTree.fromstring(draw_chart("a < b", {"a": curve, "b": curve}))
    assert chart.get("aria-label") == "a < b"
    for line in chart.findall("polyline"):
        places = [tuple(map(float, place.split(","))) for place in (line.get("points") or "").split()]
        assert 1 <= len(places) <= 400
        assert all(56 <= x <= 412 and 26 <= y <= 198 for x, y in places)


def test_the_page_is_served_on_this_machine_and_written_to_a_file(tmp_path, capsys):
    write_run(tmp_path / "model")
    server = make_server(tmp_path / "model", 0, 5.0)
    assert server.server_address[0] == "127.0.0.1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        assert urllib.request.urlopen(address).read().decode() == watch_page(tmp_path / "model", 5.0)
        with pytest.raises(UserError, match=f"Port {server.server_port} cannot be taken"):
            make_server(tmp_path / "model", server.server_port, 5.0)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + "../etc/passwd")
    finally:
        server.shutdown()
        server.server_close()
    main([str(tmp_path / "model"), "--page", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text() == watch_page(tmp_path / "model")
    assert str(tmp_path / "page.html") in capsys.readouterr().out


@pytest.mark.parametrize("value", ["0", "-3", "nan", "inf"])
def test_a_wrong_number_of_seconds(tmp_path, value):
    with pytest.raises(UserError, match=f"seconds.? must be .*, found {float(value)}"):
        main([str(tmp_path), "--seconds", value])


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none(tmp_path, port):
    with pytest.raises(UserError, match=rf"`port` must lie in \[0, 65535\], found {port}"):
        main([str(tmp_path), "--port", port])


def test_the_page_goes_into_a_new_folder(tmp_path):
    write_run(tmp_path / "model")
    main([str(tmp_path / "model"), "--page", str(tmp_path / "new" / "page.html")])
    assert "step 100" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="`page` .* cannot be a folder: .*page.html is a file"):
        main([str(tmp_path / "model"), "--page", str(tmp_path / "new" / "page.html" / "below.html")])
