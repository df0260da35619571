"""Bytes that are written and read in turn: whole numbers of variable length, and words that are told once."""

from __future__ import annotations

from ecc.core.errors import InputError

__all__ = ["MOST_NAME_BYTES", "WORDS", "ByteSink", "ByteSource", "Words"]

WORDS = (
    "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
    "gaps", "values", "codes", "centroids", "bits", "low", "high", "scale", "zero",
)  # fmt: skip
"""The words that every file knows; never changed once there are files."""

MOST_NAME_BYTES = 1 << 10
"""In UTF-8, of a text and of a whole name."""


class Words:
    """The words that a file has told so far, numbered from 1; at first :data:`WORDS`."""

    def __init__(self) -> None:
        self._told = list(WORDS)
        self._numbers = {word: number for number, word in enumerate(WORDS, 1)}

    def __len__(self) -> int:
        return len(self._told)

    def __getitem__(self, number: int) -> str:
        return self._told[number - 1]

    def number(self, word: str) -> int:
        """Of a word; 0 if it was not told."""
        return self._numbers.get(word, 0)

    def add(self, word: str) -> None:
        """The next one."""
        self._told.append(word)
        self._numbers[word] = len(self._told)


class ByteSink:
    """Bytes that are being written.

    Attributes:
        content: So far.
        words: Those that were told; may be shared by sinks of one file.
    """

    def __init__(self, words: Words | None = None) -> None:
        self.content = bytearray()
        self.words = Words() if words is None else words

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
        if len(content) > MOST_NAME_BYTES:
            raise InputError(f"the name {text[:40]!r}… has {len(content)} bytes; at most {MOST_NAME_BYTES} are stored")
        self.whole(len(content))
        self.content += content

    def word(self, word: str, flags: int = 0, flag_bits: int = 0) -> None:
        """A word: its place among those told, counted from 1, or 0 and its text; ``flags`` are the lowest bits."""
        number = self.words.number(word)
        self.whole(number << flag_bits | flags)
        if not number:
            self.text(word)
            self.words.add(word)


class ByteSource:
    """Bytes that are being read; whatever is impossible raises ``InputError``.

    Attributes:
        words: Those that were told; may be shared by sources of one file.
    """

    def __init__(self, content: bytes | memoryview, words: Words | None = None) -> None:
        self._content, self._place, self._length = memoryview(content), 0, len(content)
        self.words = Words() if words is None else words

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return self._length - self._place

    def take(self, count: int) -> memoryview:
        """The next bytes, which are not copied."""
        start, end = self._place, self._place + count
        if end > self._length:
            raise InputError(f"{count} bytes are announced where {self.left} are left")
        self._place = end
        return self._content[start:end]

    def whole(self) -> int:
        """As :meth:`ByteSink.whole` writes it, with no byte too many."""
        if self._place < self._length and (byte := self._content[self._place]) < 0x80:  # most are short
            self._place += 1
            return byte
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
        if length > MOST_NAME_BYTES:
            raise InputError(f"a name of {length} bytes is announced; at most {MOST_NAME_BYTES} are allowed")
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise InputError("a name is not in UTF-8") from error

    def word(self, flag_bits: int = 0) -> tuple[str, int]:
        """A word and the flags beside it."""
        value = self.whole()
        number, flags = value >> flag_bits, value & (1 << flag_bits) - 1
        if number > len(self.words):
            raise InputError(f"word {number} is named of {len(self.words)}")
        if number:
            return self.words[number], flags
        word = self.text()
        if self.words.number(word):
            raise InputError(f"the word {word[:40]!r} is told twice")
        self.words.add(word)
        return word, flags
