"""Which pictures are held out: no stage trains on them."""

import hashlib

HELD_OUT_SHARE = 0.1


def hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, the same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def is_held_out(key: str) -> bool:
    """Whether the picture with this key belongs to the held-out tenth."""
    return hash_share(key) < HELD_OUT_SHARE
