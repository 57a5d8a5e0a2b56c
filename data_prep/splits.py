"""Which pictures are held out: no stage trains on them."""

import hashlib
import re

HELD_OUT_SHARE = 0.1
NAMED_SET = re.compile(r"held_out-(\w+?)-\d+\.")


def hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, the same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def is_held_out(key: str) -> bool:
    """Whether the picture with this key belongs to the held-out tenth."""
    return hash_share(key) < HELD_OUT_SHARE


def named_set(file_name: str) -> str | None:
    """The held-out set that a file is for: "things" for "held_out-things-0000.tar"; None for other names."""
    found = NAMED_SET.match(file_name)
    return found and found[1]
