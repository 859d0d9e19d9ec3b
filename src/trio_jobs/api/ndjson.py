"""`Lines`: puts lines together from pieces of any size."""

# What may stand around the JSON of a line.
WHITE_SPACE = b" \t\r"


class Lines:
    """The lines of a text that arrives in pieces."""

    def __init__(self) -> None:
        # A bytearray grows in place: many tiny pieces do not copy a long line each time.
        self._pending = bytearray()

    @property
    def pending_bytes(self) -> int:
        """The length of the line whose end has not arrived yet."""
        return len(self._pending)

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes, without their line feeds."""
        self._pending += piece
        if b"\n" not in piece:
            return []
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        return lines

    def last(self) -> bytes:
        """The rest at the end: a last line without a line feed."""
        return bytes(self._pending)
