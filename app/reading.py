"""What the Codes page asks of `interp.reading`, kept for the next time."""

from app import readers, session
from app.dictionaries import Dictionary
from interp.reading import described
from interp.reading.index import Index
from interp.reading.search import Found, compared, marks
from interp.reading.text import Text, Which
from interp.reading.together import Together, together
from interp.reading.words import Lexicon, Words
from interp.runs import Run


def index(run: Run) -> Index:
    return session.read(Index.open, run)


def search(run: Run, pattern: str, which: Which) -> Found:
    """Every code against what a pattern captures; raises InputError for a bad pattern."""
    return session.read(_search, run, pattern, which)


def words(run: Run, code: int) -> Words:
    """The tokens on which a code is active."""
    return session.read(_lexicon, run).under(index(run).codes.latents(code, code + 1)[0])


def beside(run: Run, code: int, later: int) -> Together:
    """Every code on the tokens of one, or so many tokens later."""
    return together(index(run), code, later)


def books(dictionary: Dictionary, n: int) -> int:
    """How many books the n codes are in."""
    return dictionary.books if n % dictionary.books == 0 else 1


def _search(run: Run, pattern: str, which: Which) -> Found:
    return compared(index(run), marks(session.read(_text, run), pattern, which))


def _text(run: Run) -> Text:
    with readers.reading(run, readers.CONFIG):
        return described.text_of(run, len(index(run).keep))


def _lexicon(run: Run) -> Lexicon:
    keep = index(run).keep
    return Lexicon(described.tokens_of(run, len(keep)).ravel(), keep.ravel())
