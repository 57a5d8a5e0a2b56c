"""Real labelled series as an .npz: hourly power demand of a day in winter or summer.

    pip install sktime
    python examples/series.py power.npz

1,096 days of 24 hours from Italy (Keogh et al. 2006), which the package sktime contains.
"""

import sys

import numpy as np
from sktime.datasets import load_italy_power_demand

SEASONS = {"1": "winter", "2": "summer"}  # the classes of the UCR archive


def main(output: str) -> None:
    days, seasons = load_italy_power_demand(return_X_y=True, return_type="numpy3d")  # (N, 1, 24)
    values = 2 * (days - days.min()) / (days.max() - days.min()) - 1
    np.savez(
        output,
        values=values.astype(np.float32),
        captions=np.array([f"power demand of a {SEASONS[str(season)]} day" for season in seasons]),
    )
    print(f"{output}: values {values.shape}")


if __name__ == "__main__":
    main(sys.argv[1])
