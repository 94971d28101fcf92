"""The shape of an API key: ``nlft_`` + 8 character public id + ``_`` + 43 character secret + 6 character checksum.

Underscores let a double click select all of it; the prefix lets secret scanners find it; the checksum lets a mistyped
key be refused without a database look-up. The secret has 256 random bits, so a fast keyed hash is enough.
"""

import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from hashlib import sha256

PREFIX = "nlft_"
_ALPHABET = string.digits + string.ascii_letters
_PUBLIC_LENGTH = 8
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
_SHAPE = re.compile(r"nlft_([0-9A-Za-z]{8})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A well-formed key: what finds the row, and what proves it."""

    public_id: str
    secret: str

    def __repr__(self) -> str:
        """Return a form without the secret, for logs and tracebacks."""
        return f"PresentedKey({self.public_id})"

    @property
    def text(self) -> str:
        """The key as its owner writes it."""
        body = f"{PREFIX}{self.public_id}_{self.secret}"
        return body + _checksum(body)


def generate_key() -> PresentedKey:
    """Return a new random key."""
    return PresentedKey(_random(_PUBLIC_LENGTH), _random(_SECRET_LENGTH))


def parse_key(text: str) -> PresentedKey | None:
    """Return the parts of ``text``, or None when its shape or checksum is wrong."""
    match = _SHAPE.fullmatch(text)
    if match is None or not hmac.compare_digest(_checksum(text[:-_CHECKSUM_LENGTH]), match[3]):
        return None
    return PresentedKey(match[1], match[2])


def hash_secret(secret: str, pepper: str) -> str:
    """Return the hexadecimal HMAC-SHA-256 of ``secret`` under ``pepper``."""
    return hmac.new(pepper.encode(), secret.encode(), sha256).hexdigest()


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
