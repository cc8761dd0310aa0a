"""Text from models that nobody vouches for."""


def printable(text: str, length: int | None = 100) -> str:
    """`text` with escapes such as \\x1b for what could steer a terminal or break a line; letters of any language stay.

    length: what it is cut to, for a name within a message; None where all of it counts.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:length])[:length]
