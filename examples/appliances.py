"""Real labelled series as an .npz: the current that eleven kinds of appliances draw in their first seconds.

    pip install sktime
    python examples/appliances.py appliances.npz

1,074 measurements in 56 households (PLAID, Gao et al. 2014), which the package sktime contains. A series is the first
192 samples of a measurement, divided by their peak, since the units differ between households.
"""

import sys

import numpy as np
from sktime.datasets import load_plaid

LENGTH = 192
# By class number, in the order of the data set's header.
KINDS = (
    "air conditioner", "compact fluorescent lamp", "fan", "fridge", "hairdryer", "heater", "incandescent light bulb",
    "laptop", "microwave", "vacuum", "washing machine",
)  # fmt: skip


def main(output: str) -> None:
    series, classes = load_plaid(return_X_y=True)
    values = np.stack([curve(np.asarray(one)) for one in series.iloc[:, 0]])
    captions = [f"{article(KINDS[int(number)])} {KINDS[int(number)]} is switched on" for number in classes]
    np.savez(output, values=values[:, None].astype(np.float32), captions=np.array(captions))
    print(f"{output}: values {values[:, None].shape}")


def curve(samples: np.ndarray) -> np.ndarray:
    """(T,) of any length and unit -> (LENGTH,) in [-1, 1]: 0 becomes -1, the peak 1; padded with the last sample."""
    samples = np.clip(samples[:LENGTH], 0, None)
    samples = np.pad(samples, (0, LENGTH - len(samples)), mode="edge")
    return 2 * samples / max(samples.max(), 1e-9) - 1


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


if __name__ == "__main__":
    main(sys.argv[1])
