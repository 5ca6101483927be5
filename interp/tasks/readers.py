"""Pairs of prompts as people write them down, read from .jsonl (one object a line), .json (a list of objects, or one relation) and .csv.

    field     also known as                                         meaning
    clean     clean_prefix, prompt                                  the prompt
    corrupt   corrupted, patch_prefix; corrupted_hard               the prompt that asks for something else
    right     clean_answer, target_new                              the answer: text, or the number of a token
    wrong     patch_answer, target_true                             a wrong answer, or a list of them
    spans                                                           name: a piece of the clean prompt, or the position of a token

The other names are those of feature-circuits (Marks et al. 2024), EAP-IG (Hanna et al. 2024) and comp-mech (Ortu et al. 2024). EAP-IG's
`correct_idx` and `incorrect_idx` number the tokens of a tokenizer that the file does not name: where the prompt has the form of indirect
object identification its names are taken from the text, elsewhere the numbers are believed. A prompt of comp-mech is corrupted by putting
the other answer in. A relation (Hernandez et al. 2023) has `prompt_templates` with {} for the subject and `samples` of `subject` and
`object`.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from saes.errors import InputError

FIELDS: Mapping[str, tuple[str, ...]] = {
    "clean": ("clean", "clean_prefix", "prompt"),
    "corrupt": ("corrupt", "corrupted", "patch_prefix"),
    "right": ("right", "clean_answer", "target_new", "correct_idx"),
    "wrong": ("wrong", "patch_answer", "target_true", "incorrect_idx"),
}
SUFFIXES = (".jsonl", ".json", ".csv")
Answer = str | int


@dataclass(frozen=True)
class Row:
    """A pair of prompts as text."""

    clean: str
    corrupt: str
    right: Answer
    wrong: tuple[Answer, ...]
    place: str
    """Where it stands, for messages: file and line."""
    spans: Mapping[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class RelationRows:
    """Facts, and the sentences that ask for them."""

    templates: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def read_pairs(path: Path, hard: bool) -> list[Row] | RelationRows:
    """What a file holds; `hard` takes `corrupted_hard` for the corrupt prompts. Raises InputError, with the line of what is wrong."""
    if path.suffix == ".json":
        try:
            data = json.loads(_text(path))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {error.lineno} is no JSON ({error.msg}); give a list of objects") from None
        if isinstance(data, dict):
            return _relation(path, data)
        if not isinstance(data, list):
            raise InputError(
                f"{path} holds a {type(data).__name__}; give a list of objects, or an object with prompt_templates and samples"
            )
        return [_row(entry, f"{path} entry {number}", hard) for number, entry in enumerate(data, start=1)]
    return [_row(entry, f"{path} line {number}", hard) for number, entry in (_csv(path) if path.suffix == ".csv" else _jsonl(path))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give a .jsonl file with clean, corrupt, right and wrong in each line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}); give a .jsonl, .json or .csv file in UTF-8") from None


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    # JSON may hold line separators that str.splitlines would cut at.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path} line {number} is no JSON object ({error.msg}); write one object a line") from None


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(_text(path).splitlines(keepends=True))
    for row in reader:
        yield reader.line_num, {name: value for name, value in row.items() if name and value is not None}


def _row(entry: Any, place: str, hard: bool) -> Row:
    if not isinstance(entry, dict):
        raise InputError(f"{place} is no object; write one with clean, corrupt, right and wrong")
    names = dict(FIELDS) | ({"corrupt": ("corrupted_hard",)} if hard else {})
    found = {name: next((entry[known] for known in known_as if known in entry), None) for name, known_as in names.items()}
    if "correct_idx" in entry and (said := _said_once_and_twice(str(found["clean"]))):
        found |= {"right": f" {said[0]}", "wrong": f" {said[1]}"}
    if found["corrupt"] is None and "target_new" in entry and not hard:
        found["corrupt"] = str(found["clean"]).replace(str(found["right"]), str(found["wrong"]))
    for name, value in found.items():
        if value is None or value == "":
            raise InputError(f"{place} has no {name}; write it in a field named {' or '.join(names[name])}")
    if not (isinstance(found["clean"], str) and isinstance(found["corrupt"], str)):
        raise InputError(f"{place} has a prompt that is no text; write clean and corrupt as texts")
    wrong = found["wrong"] if isinstance(found["wrong"], list) else [found["wrong"]]
    indices = "correct_idx" in entry
    right, *others = (_answer(answer, indices, place) for answer in (found["right"], *wrong))
    if not others:
        raise InputError(f"{place} has an empty list of wrong answers; write one at least")
    return Row(found["clean"], found["corrupt"], right, tuple(others), place, _spans(entry.get("spans", {}), place))


def _answer(answer: Any, indices: bool, place: str) -> Answer:
    """A text, or the number of a token, which a .csv can only write as text."""
    if indices and isinstance(answer, str) and answer.strip().isdecimal():
        return int(answer)
    if isinstance(answer, bool) or not isinstance(answer, (str, int)):
        raise InputError(f"{place} has the answer {answer!r}; write a text, or the number of a token")
    return answer


def _spans(spans: Any, place: str) -> dict[str, Answer]:
    if not isinstance(spans, dict) or not all(isinstance(where, (str, int)) and not isinstance(where, bool) for where in spans.values()):
        raise InputError(
            f"{place} has spans {spans!r}; write an object of names, each with a piece of the clean prompt or a token's position"
        )
    return spans


def _said_once_and_twice(prompt: str) -> tuple[str, str] | None:
    """Indirect object and subject: two names joined by "and", of which one comes again."""
    for a, b in re.findall(r"\b([A-Z]\w+) and ([A-Z]\w+)", prompt):
        counts = [len(re.findall(rf"\b{name}\b", prompt)) for name in (a, b)]
        if sorted(counts) == [1, 2]:
            return (a, b) if counts[0] == 1 else (b, a)
    return None


def _relation(path: Path, data: dict[str, Any]) -> RelationRows:
    templates, samples = data.get("prompt_templates"), data.get("samples")
    if not (_texts(templates) and isinstance(samples, list)):
        raise InputError(f"{path} has no prompt_templates and samples; give a relation with both, or a list of objects")
    for number, sample in enumerate(samples, start=1):
        if not (isinstance(sample, dict) and _texts([sample.get("subject"), sample.get("object")])):
            raise InputError(f"{path} sample {number} has no subject and object; write both as texts")
    if not all(template.count("{}") == 1 for template in templates):
        raise InputError(f"{path} has a prompt template without {{}}; write {{}} once in each, where the subject stands")
    return RelationRows(tuple(templates), tuple((sample["subject"], sample["object"]) for sample in samples))


def _texts(values: Any) -> TypeGuard[Sequence[str]]:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(value, str) for value in values)
