"""The checker of types that the tests use: beartype, to which a whole number is a number, as in PEP 484."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
