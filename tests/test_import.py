"""What `import vqlm` does to a program."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_threads_spin_for_a_short_time_unless_the_user_says_otherwise(given, expected):
    free = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    program = "import sys, vqlm, os; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], env=free | given, capture_output=True, text=True)
    assert output.stdout.split() == [expected, "False"], output.stderr
