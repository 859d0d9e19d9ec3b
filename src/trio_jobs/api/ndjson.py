"""`Lines`: puts lines together that come in pieces cut anywhere."""


class Lines:
    """The lines of a text that arrives in pieces."""

    def __init__(self) -> None:
        # A bytearray grows in place: a long line in tiny pieces is not copied
        # for each of them.
        self._pending = bytearray()

    @property
    def pending_bytes(self) -> int:
        """How much there is of a line whose end has not come yet."""
        return len(self._pending)

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes, without their line feeds."""
        if b"\n" not in piece:
            self._pending += piece
            return []
        self._pending += piece
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        return lines

    def last(self) -> bytes:
        """What is left at the end: the last line, if it had no line feed."""
        return bytes(self._pending)
