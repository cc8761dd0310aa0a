"""Text from models that nobody vouches for."""


def printable(text: str, length: int = 100) -> str:
    """`text` without what could steer a terminal, cut to a length that leaves one line: ASCII, all else as an escape."""
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:length])[:length]
