"""How to install the packages that only some functions need."""

from importlib import metadata


def install_hint(extra: str) -> str:
    """A command that installs the packages of an extra; it works from a checkout and from a wheel."""
    try:
        required = metadata.requires("vqlm") or []
    except metadata.PackageNotFoundError:  # the folders themselves are on the path
        return f"pip install -e '.[{extra}]'"
    packages = [line.partition(";")[0].strip() for line in required if f'extra == "{extra}"' in line.replace("'", '"')]
    if not packages:  # a checkout that was installed before there was this extra
        return f"pip install -e '.[{extra}]'"
    return "pip install " + " ".join(f'"{package}"' for package in packages)
