"""Bytes that are written and read in turn: whole numbers of variable length, and words that are told once."""

from __future__ import annotations

from ecc.core.errors import InputError

__all__ = ["WORDS", "ByteSink", "ByteSource"]

WORDS = (
    "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
    "gaps", "values", "codes", "centroids", "bits", "low", "high", "scale", "zero",
)  # fmt: skip
"""The words that every file knows; never changed once there are files."""

_MOST_WORD_BYTES = 1 << 10


class ByteSink:
    """Bytes that are being written.

    Attributes:
        content: So far.
        words: Those that were told, in order; may be shared by sinks of one file.
    """

    def __init__(self, words: list[str] | None = None) -> None:
        self.content = bytearray()
        self.words = list(WORDS) if words is None else words

    def whole(self, value: int) -> None:
        """A whole number from 0 to below 2⁶⁴ in groups of 7 bits, the lowest first; the top bit says: more follow."""
        while value > 0x7F:
            self.content.append(value & 0x7F | 0x80)
            value >>= 7
        self.content.append(value)

    def text(self, text: str) -> None:
        """Length and bytes in UTF-8.

        Raises:
            InputError: If the text is too long or is not text.
        """
        try:
            content = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the name {text!r} is not Unicode text and cannot be stored") from error
        if len(content) > _MOST_WORD_BYTES:
            raise InputError(f"the name {text[:40]!r}… has {len(content)} bytes; at most {_MOST_WORD_BYTES} are stored")
        self.whole(len(content))
        self.content += content

    def word(self, word: str, flags: int = 0, flag_bits: int = 0) -> None:
        """A word: its place among those told, counted from 1, or 0 and its text; ``flags`` are the lowest bits."""
        place = self.words.index(word) + 1 if word in self.words else 0
        self.whole(place << flag_bits | flags)
        if not place:
            self.text(word)
            self.words.append(word)


class ByteSource:
    """Bytes that are being read; whatever is impossible raises ``InputError``.

    Attributes:
        words: Those that were told, in order; may be shared by sources of one file.
    """

    def __init__(self, content: bytes | memoryview, words: list[str] | None = None) -> None:
        self._content, self._place = memoryview(content), 0
        self.words = list(WORDS) if words is None else words

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._content) - self._place

    def take(self, count: int) -> memoryview:
        """The next bytes, which are not copied."""
        if count > self.left:
            raise InputError(f"{count} bytes are announced where {self.left} are left")
        self._place += count
        return self._content[self._place - count : self._place]

    def whole(self) -> int:
        """As :meth:`ByteSink.whole` writes it, with no byte too many."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if (not byte and shift) or value >> 64:
                    break
                return value
        raise InputError("a whole number is not in its shortest form or too large")

    def text(self) -> str:
        """As :meth:`ByteSink.text` writes it."""
        length = self.whole()
        if length > _MOST_WORD_BYTES:
            raise InputError(f"a name of {length} bytes is announced; at most {_MOST_WORD_BYTES} are allowed")
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise InputError("a name is not in UTF-8") from error

    def word(self, flag_bits: int = 0) -> tuple[str, int]:
        """A word and the flags beside it."""
        value = self.whole()
        place, flags = value >> flag_bits, value & (1 << flag_bits) - 1
        if place > len(self.words):
            raise InputError(f"word {place} is named of {len(self.words)}")
        if place:
            return self.words[place - 1], flags
        word = self.text()
        if word in self.words:
            raise InputError(f"the word {word!r} is told twice")
        self.words.append(word)
        return word, flags
