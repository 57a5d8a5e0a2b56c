"""Short clips as an .npz: OpenMoji pictures that cross the frame.

python examples/clips.py clips.npz
"""

import sys

import numpy as np
from PIL import Image

from vqlm.data_prep import load_collection
from vqlm.data_prep.pictures.picture_files import decode_picture

FRAMES, SIDE, PICTURE = 8, 32, 20
WAYS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}
NUMBER = 1000


def main(output: str) -> None:
    rows = list(load_collection("openmoji", 64).rows("train"))
    values, captions = [], []
    for number, row in enumerate(rows[:: len(rows) // NUMBER]):
        way = list(WAYS)[number % len(WAYS)]
        picture = decode_picture(row.image, (64, 64))  # type: ignore[arg-type]
        values.append(clip(picture.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS), WAYS[way]))
        captions.append(f"{row.captions[0]} moves {way}")
    np.savez(output, values=np.stack(values), captions=np.array(captions))
    print(f"{output}: values {np.stack(values).shape}")


def clip(picture: Image.Image, way: tuple[int, int]) -> np.ndarray:
    """(3, FRAMES, SIDE, SIDE) uint8: the picture moves from one edge of a white frame to the other."""
    frames, room = [], SIDE - PICTURE
    for share in np.linspace(-0.5, 0.5, FRAMES):
        frame = Image.new("RGB", (SIDE, SIDE), "white")
        top, left = (round(room * (0.5 + share * step)) for step in way)
        frame.paste(picture, (left, top))
        frames.append(np.array(frame))
    return np.stack(frames).transpose(3, 0, 1, 2)


if __name__ == "__main__":
    main(sys.argv[1])
