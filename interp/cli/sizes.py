"""Sizes as people write them: `20GB`, `500 MB`, `1.5TB`."""

import re

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def parse_size(option: str, text: str | None) -> int | None:
    """Bytes; None stays None. Raises `BadInput` where number or unit is missing."""
    from interp.core.errors import BadInput

    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    unit = UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise BadInput(f"{option} {text!r} is not a size. Write a number and a unit, for example 500MB or 20GB.")
    return int(float(found[1]) * unit)
