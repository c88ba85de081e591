"""Damage to the bytes of a file."""

from __future__ import annotations

import random
from collections.abc import Callable


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Some bytes replaced."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 64])):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flipped_header(content: bytes, rng: random.Random) -> bytes:
    """A byte near the beginning replaced."""
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(min(64, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def beheaded(content: bytes, rng: random.Random) -> bytes:
    return content[rng.randrange(len(content) + 1) :]


def swapped(content: bytes, rng: random.Random) -> bytes:
    """Two blocks exchanged."""
    a, b, c = sorted(rng.randrange(len(content) + 1) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def repeated(content: bytes, rng: random.Random) -> bytes:
    """A block repeated."""
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:b] + content[a:b] * rng.choice([1, 2, 20]) + content[b:]


def emptied(content: bytes, rng: random.Random) -> bytes:
    return b""


def replaced(content: bytes, rng: random.Random) -> bytes:
    """Another kind of file."""
    return rng.choice(OTHERS)


OTHERS = [
    *(bytes(600), b"junk\n" * 50, b"PK\x03\x04" + bytes(200), b"\x89PNG\r\n\x1a\n" + bytes(40)),
    *(b"{}", b"[]", b"null"),
]

MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    *(flipped, flipped, flipped_header, cut, cut, beheaded, swapped, repeated, emptied, replaced)
]


def mutated(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Damaged content, and the names of the mutations."""
    names = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        mutation = rng.choice(MUTATIONS)
        content = mutation(content, rng)
        names.append(mutation.__name__)
    return content, "+".join(names)


def mutated_text(text: str, rng: random.Random) -> tuple[str, str]:
    """Structured text whose values are replaced by surprising ones."""
    separator = rng.choice([",", ":", "\n", " "])
    parts = text.split(separator)
    parts[rng.randrange(len(parts))] = rng.choice(SURPRISING)
    return separator.join(parts), "surprising value"


SURPRISING = [
    *("null", "-1", "1e999", "[]", "{}", '""', "true", "../../x", "é\u2028", "9" * 40, "nan", "\\u0000", "&a [*a]"),
    *("'", '"', "\t", "${x}", "!!python/object:os.system", "[" * 2000),
]
