"""What a user installs: the packages and the licence, and nothing that only developers need."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("vq", "data_prep", "lm", "training", "planning", "scripts")


def test_the_wheel_ships_the_packages_only(tmp_path):
    source = tmp_path / "source"
    leave_out = shutil.ignore_patterns(".*", "build", "dist", "outputs", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=leave_out)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("vqlm-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert folders == {"vqlm"}
    modules = {f"vqlm/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.py*")}
    modules |= {"vqlm/__init__.py", "vqlm/__init__.pyi"}
    assert {name for name in modules if "__pycache__" not in name} == {
        name for name in names if ".dist-info" not in name
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
