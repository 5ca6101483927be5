"""Clean prose from a docstring: the sentences a person would read aloud, without code, tables, formulas or markup.

A docstring is cut at blank lines into blocks. Sections that list things (parameters, returns, examples, ...) are skipped, and so is
every block that is indented (parameter lists, literal blocks, bodies of directives) or looks like a list, a table, a doctest or a
heading. Of the blocks that remain, reStructuredText and Markdown markup is reduced to its text; a block with a formula, a placeholder
or too many signs is dropped, so is one that is no sentence.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator

RULES = 1
"""Part of the revision of the corpus: raise it when the rules here, or the order in `docs`, give another text."""

_SKIPPED_SECTION = re.compile(
    r"((other|keyword|input|output|optional|extra|class|instance|public|call|environment) )*"
    r"(parameters?|params?|returns?|yields?|receives?|raises?|warns?|see also|see|references?|bibliography|literature|citations?|links"
    r"|examples?|samples?|usage|doctests?|tests?|attributes?|properties|fields|variables|methods?|args|arguments|kwargs|keywords?|options"
    r"|default|shapes?|inputs?|outputs?|signature|syntax|source|authors?|history|todos?|changelog|copyright|license|contents|index|tags"
    r"|sections?|dependencies)",
    re.IGNORECASE,
)
_NOTE = re.compile(
    r"(\.\. (note|warning|important|tip|caution|hint|attention|admonition)::|\*{0,2}(Notes?|Warnings?|Important|Tip):?\*{0,2}:)\s*$",
    re.IGNORECASE,
)
_UNDERLINE = re.compile(r"([=\-~^\"'`*+#_.:])\1{2,}\s*$")
_LIST_ITEM = re.compile(r"([-*+•·–]|\(?\d+[.)\]]|\(?[a-zA-Z][.)]|\[\w+\]|#+|>|>>>|\.\.\.|\.\.|:\w|@|\||\$|!|%|/|<)(\s|\w|$|[<|+\-=:_.>])")

# Markup to its text, in this order: references before code spans before emphasis.
_MARKUP = (
    (re.compile(r"(\[#?\w+\])_"), r"\1"),  # citations: [1]_ [CT1965]_
    (re.compile(r"!?\[\[?`?([^\[\]`]+)`?\]?\]\([^()\s]+\)"), r"\1"),  # Markdown links
    (re.compile(r"\[`~?([^`\]]+)`\](?:\[[^\]]*\])?"), r"\1"),  # [`transformers.BertModel`]
    (re.compile(r"(?::[a-z:-]+:)?`([^`<>]+?)\s*<[^`<>]+>`_{0,2}"), r"\1"),  # links: `text <target>`_ and :ref:`text <target>`
    (re.compile(r"`\s*<[^`<>]+>`_{0,2}"), ""),
    (re.compile(r":(?:[a-z]+:)?[a-z-]+:`[~!]?\.?([^`]+)`"), r"\1"),  # roles: :class:`~torch.Tensor`
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"`~?\.?([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])\*\*([^\s*](?:[^*]*[^\s*])?)\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^\s*](?:[^*]*[^\s*])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w_])_([a-zA-Z]+)_(?![\w_])"), r"\1"),
    (re.compile(r"<https?://[^>\s]*>"), ""),
    (re.compile(r"::(?=\s|$)"), ":"),
    (re.compile(r"\\ "), ""),
)
_MARKED = re.compile(r"[`*\[<\\]|_\b|\b_|::")
_MATHEMATICS = re.compile(r":math:|\$|\\[a-zA-Z(\[{]|[_^]\{")
# What a paragraph of prose has no use for: code and markup that the rules above did not know, and holes where something was removed.
_LEFTOVER = re.compile(
    r"[`{}|<>\\=~^»\uFFFD]|https?:|www\.|\[\[|\]\]|\*\*|%\(|%[sd]\b|::|\.\. |->|--+|__\b|:\w+:|//|#\s|TODO|FIXME|XXX"
    r"|\(\s*[,;)]|\s[,;.:]\s|[,;][,;.]|\b(see|in|of|from|by|and|also) ?[.,;]\s"
)
_LOOSE_SIGN = re.compile(r"(?<=[\w)]) (?=[.,;](?:\s|$))")
_LEGAL = re.compile(r"copyright|licen[sc]ed? |all rights reserved|redistribut|warrant(y|ies)|auto-?generated", re.IGNORECASE)
_PLAIN_WORD = re.compile(r"[(\"']?[a-zA-Z][a-z]*(?:['’-][a-z]+)*[,.;:!?)\"']*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"']?\s+(?=[A-Z\"'(])")


def paragraphs(docstring: str) -> Iterator[str]:
    """Each paragraph of prose on one line, markup removed."""
    skipping = False
    for block in re.split(r"\n\s*\n", _with_open_notes(inspect.cleandoc(docstring))):
        lines = block.rstrip().splitlines()
        if (heading := _heading(lines)) is not None:
            skipping = _SKIPPED_SECTION.fullmatch(heading.strip(" :*#`_")) is not None
            lines = [] if len(lines) == 1 else lines[2:]
        if lines and not skipping and _flush_left(lines) and (text := _clean(lines)):
            yield text


def _with_open_notes(text: str) -> str:
    """The indented bodies of notes and warnings, moved to the margin as paragraphs of their own."""
    lines: list[str] = []
    note: list[str] | None = None
    for line in text.splitlines():
        if note is not None and (not line.strip() or line[0].isspace()):
            note.append(line)
            continue
        if note is not None:
            lines += ["", *textwrap.dedent("\n".join(note)).splitlines(), ""]
        note = [] if _NOTE.match(line) else None
        if note is None:
            lines.append(line)
    return "\n".join([*lines, "", *textwrap.dedent("\n".join(note or [])).splitlines()])


def _heading(lines: list[str]) -> str | None:
    """The title over this block: underlined, a Markdown heading, or a lone label such as `Args:`."""
    if len(lines) >= 3 and _UNDERLINE.match(lines[0]) and _UNDERLINE.match(lines[2]):
        return lines.pop(0) and lines[0]
    if len(lines) >= 2 and _UNDERLINE.match(lines[1]) and lines[0][:1].strip():
        return lines[0]
    if lines and re.match(r"#+ ", lines[0]):
        return lines[0]
    label = re.match(r"(\*{0,2}[A-Z]\w*(?: \w+){0,2}\*{0,2})::?\s*(\*\*)?$", lines[0]) if lines else None
    return label[1] if label and len(lines) == 1 else None


def _flush_left(lines: list[str]) -> bool:
    return not any(line[:1].isspace() or _UNDERLINE.match(line) or _LIST_ITEM.match(line) for line in lines)


def _clean(lines: list[str]) -> str:
    """One block as plain text; empty when it is no prose."""
    text = " ".join(" ".join(lines).split())
    if len(text) < 40 or _MATHEMATICS.search(text) or _LEGAL.search(text):
        return ""
    if _MARKED.search(text):
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    text = _LOOSE_SIGN.sub("", " ".join(_without_lead_in(text).split()))
    return text if is_prose(text) else ""


def _without_lead_in(text: str) -> str:
    """Without a last sentence that ends in a colon: what it announces (code, a list) is gone."""
    return text if not text.endswith(":") else text[: max((m.start() for m in _SENTENCE_END.finditer(text)), default=0)]


def is_prose(text: str) -> bool:
    """Starts like a sentence, ends like one, and is made of words: at least three quarters of eight or more."""
    words = text.split()
    if len(words) < 8 or not (text[0].isupper() or text[0] in "\"'(") or text[-1] not in ".!?\"')":
        return False
    return _LEFTOVER.search(text) is None and sum(_PLAIN_WORD.fullmatch(word) is not None for word in words) >= 0.75 * len(words)
