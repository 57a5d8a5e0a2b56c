"""Which package may import which, and that importing one of them changes nothing else."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "training": set(),
    "vq": {"training"},
    "data_prep": {"vq", "training"},
    "lm": {"data_prep", "vq", "training"},
    "planning": {"lm", "data_prep", "vq", "training"},
    "serve": {"lm", "data_prep", "vq", "training"},
    "scripts": {"planning", "serve", "lm", "data_prep", "vq", "training", "scripts"},
}
PACKAGES = [name for name in ALLOWED if name != "scripts"]

# transformers sets a variable of torch.compile's when it is imported; what is checked is what ours add to that.
IMPORT_ALL = """
import importlib, json, os, sys
import torch, accelerate, datasets, jsonargparse, transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
environment, random_state = dict(os.environ), torch.get_rng_state()
guilty = []
for name in sys.argv[1:]:
    importlib.import_module(name)
    if dict(os.environ) != environment or not torch.equal(torch.get_rng_state(), random_state):
        guilty.append(name)
        environment, random_state = dict(os.environ), torch.get_rng_state()
print(json.dumps(guilty))
"""


def imported_packages(source: str) -> set[str]:
    """Our packages among all that a module imports, at its top or inside a function."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module)
    return {part for name in names for part in name.split(".")[1:2] if name.startswith("vqlm.")} & ALLOWED.keys()


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_the_search_sees_every_form_of_import():
    source = (
        "import os, vqlm.lm.model\nfrom vqlm.vq import VQVAE\nfrom . import x\n"
        "def f():\n    from vqlm.scripts.demo import main\n"
    )
    assert imported_packages(source) == {"lm", "vq", "scripts"}


def test_data_prep_uses_the_public_side_of_vq():
    modules_of_vq = {
        node.module
        for path in modules("data_prep")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vqlm.vq")
    }
    assert modules_of_vq == {"vqlm.vq"}


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_lies_below_it(package):
    imports = {path: imported_packages(path.read_text(encoding="utf-8")) for path in modules(package)}
    assert imports
    wrong = {str(path): names - ALLOWED[package] - {package} for path, names in imports.items()}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.slow
def test_importing_changes_neither_random_numbers_nor_environment():
    names = [
        "vqlm." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in modules(package)
    ]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
