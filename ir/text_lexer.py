"""Split the text form into tokens, and say where in the text an error is."""

import enum
import json
import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from whet.errors import InvalidModel


class Kind(enum.Enum):
    """Is what a token is."""

    SKIP = r"[ \t\r\n]+|\#[^\n]*"
    BYTES = r'b"[0-9a-f]*"'
    STRING = r'"(?:[^"\\\n]|\\.)*"'
    DIGEST = r"<sha256:[0-9a-f]+>"
    NUMBER = r"-?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|-inf\b"
    NAME = r"[A-Za-z_%/$][A-Za-z0-9_.%/$]*"
    MARK = r"->|::|[()\[\]{}=:,@?~]"
    END = r"\Z"
    OTHER = r"(?s:.)"


_KINDS = dict(Kind.__members__)
_TOKEN = re.compile("|".join(f"(?P<{kind.name}>{kind.value})" for kind in Kind))


class Token(NamedTuple):
    """Is a piece of the text with its place."""

    kind: Kind
    text: str
    start: int


class Lexer:
    """Walks over the tokens of a text with one token of lookahead, and a second by :meth:`peek`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = list(self._split())
        self._index = 0
        self.token = self._tokens[0]
        """The token that comes next."""

    def peek(self) -> Token:
        """Return the token after the next one."""
        return self._tokens[min(self._index + 1, len(self._tokens) - 1)]

    def advance(self) -> Token:
        """Consume the next token and return it."""
        token = self.token
        if token.kind is not Kind.END:
            self._index += 1
            self.token = self._tokens[self._index]
        return token

    def at(self, mark: str) -> bool:
        """Say whether the next token is this mark or bare word."""
        return self.token.text == mark  # strings keep their quotes, so they never match

    def accept(self, mark: str) -> bool:
        """Consume the next token if it is this mark or bare word."""
        if self.token.text != mark:
            return False
        self.advance()
        return True

    def expect(self, mark: str) -> Token:
        """Consume this mark or bare word, or fail."""
        if not self.at(mark):
            self.fail(f"expected '{mark}', found {self._describe(self.token)}")
        return self.advance()

    def take(self, kind: Kind, what: str) -> str:
        """Consume a token of this kind and return its text, or fail naming ``what`` is missing."""
        if self.token.kind is not kind:
            self.fail(f"expected {what}, found {self._describe(self.token)}")
        return self.advance().text

    def string(self, what: str) -> str:
        """Consume a quoted string and return what it says."""
        token = self.token
        text = self.take(Kind.STRING, what)
        try:
            return str(json.loads(text, strict=False))
        except json.JSONDecodeError as error:
            self.fail(f"bad string: {error.msg}", token)

    def name(self, what: str) -> str:
        """Consume a bare or quoted name and return it."""
        if self.token.kind is Kind.STRING:
            return self.string(what)
        return self.take(Kind.NAME, what)

    def fail(self, message: str, token: Token | None = None) -> NoReturn:
        """Raise :class:`InvalidModel` that shows the line of ``token`` (default: the next one)."""
        start = (token or self.token).start
        line_start = self._source.rfind("\n", 0, start) + 1
        line_end = self._source.find("\n", start)
        line = self._source[line_start : line_end if line_end >= 0 else len(self._source)]
        number = self._source.count("\n", 0, start) + 1
        column = start - line_start
        gutter = f"{number:>5} | "
        caret = " " * (len(gutter) + column) + "^"
        raise InvalidModel(
            f"line {number}, column {column + 1}: {message}\n{gutter}{line}\n{caret}"
        )

    def _describe(self, token: Token) -> str:
        return "the end of the text" if token.kind is Kind.END else f"'{token.text}'"

    def _split(self) -> Iterator[Token]:
        for match in _TOKEN.finditer(self._source):
            kind = _KINDS[match.lastgroup or "END"]
            if kind is Kind.SKIP:
                continue
            token = Token(kind, match.group(), match.start())
            if kind is Kind.OTHER:
                self.fail(f"unexpected character {token.text!r}", token)
            yield token
