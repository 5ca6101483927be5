"""Every task of the union, with every corruption and every option, over tokenizers that write numbers by one and by two digits."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from conftest import shared
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp import models
from interp.circuits.ablation import replacement
from interp.circuits.forward import clean_metric, corrupt_metric, metrics
from interp.circuits.graph import graph
from interp.circuits.methods import Eap, Exact
from interp.stages.base import Context, resolved
from interp.stages.circuit import Circuit
from interp.tasks import TASKS, AnyTask, Docstring, Drawn, GreaterThan, Induction, Pairs, Task, TaskFile, corruptions, task, words
from interp.tasks.gendered_pronoun import FEMALE, MALE, PRONOUNS
from interp.tasks.ioi import FAMILIES, NAMES, OBJECTS, PLACES
from interp.tasks.relation import FACTS
from interp.tasks.task_file import ALONE, ANSWER, EQUAL, LENGTH, REPEATED, SAME_ANSWER
from saes.errors import InputError

BOS = 1
N = 36


def english(numbers: str) -> PreTrainedTokenizerBase:
    """Words of the tasks as single tokens; numbers by one digit (SmolLM2), by two (GPT-2), or whole years."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True)] if numbers == "one" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=9000, special_tokens=["<|eos|>", "<|bos|>"], initial_alphabet=alphabet, show_progress=False)
    facts = [word for text in FACTS.values() for word in text.replace("/", " ").split()]
    forms = [word for pair in (*words.PEOPLE, *words.THINGS, *words.VERBS) for word in pair]
    known = [*words.EVENTS, *words.ARGUMENTS, *words.NOUNS, *forms, *facts, *NAMES, *PLACES, *OBJECTS, *PRONOUNS, "do", "and"]
    years = {
        "one": [],
        "two": [*[f" {century}" for century in range(11, 18)] * 60, *[f"{year:02}" for year in range(100)] * 3],
        "whole": [f" {year}" for year in range(1100, 1800)],
    }
    tokenizer.train_from_iterator([*(f"and {word} {word}" for word in known), *years[numbers]] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>")


TOKENIZERS = {numbers: english(numbers) for numbers in ("one", "two")}


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]


def variants(kind: type[Drawn]) -> list[Drawn]:
    """The task as it is by default, and with each value of each of its choices."""
    hints = {f.name: get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
    return list({task(kind.NAME): None} | {task(kind.NAME, **{n: v}): None for n, hint in hints.items() for v in get_args(hint)})  # pyright: ignore[reportReturnType]


ALL = [variant for kind in TASKS.values() for variant in variants(kind)]
every_task = pytest.mark.parametrize("one", ALL, ids=repr)


def text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def tokens(tokenizer: PreTrainedTokenizerBase, of: str) -> list[int]:
    return tokenizer.encode(of, add_special_tokens=False)


def test_the_table_is_the_union_and_every_member_is_a_task_with_its_own_corruptions() -> None:
    assert set(TASKS.values()) | {TaskFile} == {member for kind in get_args(AnyTask) for member in (get_args(kind) or (kind,))}
    for name, kind in TASKS.items():
        assert isinstance(task(name), Task)
        assert task(name).corruption == corruptions(kind)[0]
        assert [task(name, corruption).corruption for corruption in corruptions(kind)] == list(corruptions(kind))


@every_task
def test_clean_and_corrupt_differ_and_only_up_to_the_end(tokenizer: PreTrainedTokenizerBase, one: Drawn) -> None:
    pairs = one.pairs(tokenizer, N, 0, BOS)
    differs = pairs.clean != pairs.corrupt
    assert pairs.clean.shape == pairs.corrupt.shape
    assert bool((differs & pairs.real()).any(1).all())
    assert not bool((differs & ~pairs.real()).any())
    assert not bool(differs[:, 0].any()), "BOS stays"


@every_task
def test_prompts_and_answers_are_the_tokens_of_their_text(tokenizer: PreTrainedTokenizerBase, one: Drawn) -> None:
    pairs = one.pairs(tokenizer, N, 0, None)
    for i, end in enumerate(pairs.end.tolist()):
        clean, corrupt = (side[i, : end + 1].tolist() for side in (pairs.clean, pairs.corrupt))
        assert tokens(tokenizer, text(tokenizer, corrupt)) == corrupt
        for answer in {int(pairs.answer[i]), *pairs.wrong[i].tolist()}:
            assert tokens(tokenizer, text(tokenizer, [*clean, answer])) == [*clean, answer]


@every_task
def test_no_prompt_comes_twice_and_a_seed_repeats(tokenizer: PreTrainedTokenizerBase, one: Drawn) -> None:
    pairs, again, other = (one.pairs(tokenizer, N, seed, BOS) for seed in (0, 0, 1))
    assert len({tuple(row) for row in pairs.clean.tolist()}) == N
    for f in dataclasses.fields(pairs):
        if isinstance(drawn := getattr(pairs, f.name), torch.Tensor):
            assert torch.equal(drawn, getattr(again, f.name)), f.name
    assert pairs.clean.tolist() != other.clean.tolist()


@every_task
def test_bos_moves_every_position_by_one(tokenizer: PreTrainedTokenizerBase, one: Drawn) -> None:
    pairs, without = one.pairs(tokenizer, N, 0, BOS), one.pairs(tokenizer, N, 0, None)
    assert torch.equal(pairs.clean[:, 1:], without.clean)
    assert torch.equal(pairs.corrupt[:, 1:], without.corrupt)
    assert torch.equal(pairs.read - 1, without.read)
    assert {name: (positions - 1).tolist() for name, positions in pairs.spans.items()} == {n: p.tolist() for n, p in without.spans.items()}


@every_task
def test_pairs_of_a_group_have_their_spans_and_their_end_at_the_same_positions(tokenizer: PreTrainedTokenizerBase, one: Drawn) -> None:
    pairs = one.pairs(tokenizer, 4 * N, 0, BOS)
    for group in pairs.group.unique():
        for name, positions in pairs.spans.items():
            assert len(positions[pairs.group == group].unique()) == 1, name
    assert torch.equal(pairs.spans["end"], pairs.end)


@every_task
def test_the_metric_prefers_the_answer_and_goes_with_rows_and_runs(tokenizer: PreTrainedTokenizerBase, one: Drawn) -> None:
    pairs = one.pairs(tokenizer, N, 0, BOS)
    n_read = pairs.read.shape[1]
    sure = torch.full((N, n_read, len(tokenizer)), -10.0)
    for i in range(N):
        sure[i, -1, pairs.answer[i]] = 10.0
        # Where two positions are read, the first must give the token that stands at the second.
        if n_read == 2:
            sure[i, 0, pairs.clean[i, pairs.end[i]]] = 10.0
    assert bool((one.metric(sure, pairs) > 0.9).all())
    logits = torch.randn(3, N, n_read, len(tokenizer), generator=torch.Generator().manual_seed(0))
    metric = one.metric(logits, pairs)
    assert metric.shape == (3, N)
    some = slice(5, 11)
    assert torch.allclose(one.metric(logits[:, some], pairs.rows(some)), metric[:, some])
    assert torch.allclose(one.metric(logits[1], pairs.to(torch.device("cpu"))), metric[1])


def at(tokenizer: PreTrainedTokenizerBase, pairs: Pairs, span: str, side: str = "clean") -> list[str]:
    ids = getattr(pairs, side).gather(1, pairs.spans[span][:, None])[:, 0].tolist()
    return [text(tokenizer, [token]) for token in ids]


def test_spans_of_years_hold_the_year_and_corruption_makes_it_01() -> None:
    for numbers, spans in (("two", ("YY",)), ("one", ("Y1", "Y2"))):
        tokenizer = TOKENIZERS[numbers]
        pairs = GreaterThan().pairs(tokenizer, N, 0, BOS)
        for i, end in enumerate(pairs.end.tolist()):
            sentence = text(tokenizer, pairs.clean[i, 1 : end + 1].tolist())
            year, last = sentence.split(" year ")[1].split()[0], sentence.split(" year ")[2]
            assert "".join(at(tokenizer, pairs, span)[i] for span in spans) == year[2:]
            assert last == (year[:2] if numbers == "two" else year[:3])
            assert text(tokenizer, [int(pairs.answer[i])]) > (year[2:] if numbers == "two" else year[3])
            assert text(tokenizer, pairs.corrupt[i, 1 : end + 1].tolist()) == sentence.replace(year, f"{year[:2]}01")


def test_the_metric_of_years_is_the_literal_sum_over_numbers() -> None:
    for numbers, width in (("two", 100), ("one", 10)):
        tokenizer = TOKENIZERS[numbers]
        pairs = GreaterThan().pairs(tokenizer, 8, 0, BOS)
        assert pairs.numbers is not None
        assert [text(tokenizer, [token]) for token in pairs.numbers[0].tolist()] == [f"{n:0{width // 10 // 5 or 1}}" for n in range(width)]
        logits = 3 * torch.randn(8, pairs.read.shape[1], len(tokenizer), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        metric = GreaterThan().metric(logits, pairs)
        assert metric.dtype == torch.float64
        for i in range(8):
            p = logits[i].softmax(-1)
            digit = {n: int(pairs.numbers[i, n]) for n in range(width)}
            if numbers == "two":
                yy = int(at(tokenizer, pairs, "YY")[i])
                expected = sum(p[0, digit[y]] for y in range(yy + 1, 100)) - sum(p[0, digit[y]] for y in range(yy + 1))
            else:
                a, b = (int(at(tokenizer, pairs, span)[i]) for span in ("Y1", "Y2"))
                after = sum(p[0, digit[x]] for x in range(a + 1, 10)) + p[0, digit[a]] * sum(p[1, digit[y]] for y in range(b + 1, 10))
                before = sum(p[0, digit[x]] for x in range(a)) + p[0, digit[a]] * sum(p[1, digit[y]] for y in range(b + 1))
                expected = after - before
            assert metric[i].item() == pytest.approx(float(expected), abs=1e-12)


def test_years_that_are_not_split_by_two_or_by_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"writes 1732 as Ġ1732, and task greater_than needs years"):
        GreaterThan().pairs(english("whole"), 4, 0, None)


@pytest.mark.parametrize("corruption", corruptions(Docstring))
def test_docstring_names_are_drawn_without_replacement_and_changed_where_the_corruption_says(corruption: str) -> None:
    tokenizer, defined, described = TOKENIZERS["two"], ("P1", "P2", "A", "B", "C", "S1"), ("A_doc", "B_doc")
    pairs = task("docstring", corruption).pairs(tokenizer, N, 0, BOS)
    changed = {"random_random": {*defined, *described}, "random_def": {*defined}, "random_answer": {"C"}}[corruption]
    clean, corrupt = ({span: at(tokenizer, pairs, span, side) for span in (*defined, *described)} for side in ("clean", "corrupt"))
    for i in range(N):
        assert {span for span in clean if clean[span][i] != corrupt[span][i]} == changed
        assert clean["A"][i] == clean["A_doc"][i]
        assert clean["B"][i] == clean["B_doc"][i]
        assert clean["C"][i] == text(tokenizer, [int(pairs.answer[i])])
        assert {clean[span][i] for span in defined if span != "C"} == {text(tokenizer, [token]) for token in pairs.wrong[i].tolist()}
        names = [clean[span][i] for span in defined] + [corrupt[span][i] for span in changed]
        assert len(set(names)) == len(names)
        assert int((pairs.clean[i] != pairs.corrupt[i]).sum()) == len(changed)


def test_a_name_of_the_other_gender_takes_the_place_of_the_name() -> None:
    tokenizer = TOKENIZERS["two"]
    pairs = task("gendered_pronoun").pairs(tokenizer, N, 0, BOS)
    clean, corrupt = (at(tokenizer, pairs, "NAME", side) for side in ("clean", "corrupt"))
    for name, other, answer in zip(clean, corrupt, pairs.answer.tolist(), strict=True):
        assert (name.strip() in FEMALE) == (text(tokenizer, [answer]) == " she") == (other.strip() in MALE)
    assert bool(((pairs.clean != pairs.corrupt).sum(1) == 1).all())


@pytest.mark.parametrize("structure", ["simple", "nounpp", "within_rc"])
def test_only_the_noun_that_the_verb_agrees_with_changes_its_number(structure: str) -> None:
    tokenizer = TOKENIZERS["two"]
    pairs = task("agreement", structure=structure).pairs(tokenizer, N, 0, BOS)
    forms = [*words.PEOPLE, *words.THINGS, *words.VERBS]
    number = {f" {form[plural]}": plural for form in forms for plural in (0, 1)}
    nouns = at(tokenizer, pairs, "VERB'S NOUN"), at(tokenizer, pairs, "VERB'S NOUN", "corrupt")
    for i in range(N):
        noun, other, answer, wrong = nouns[0][i], nouns[1][i], *(text(tokenizer, [int(t)]) for t in (pairs.answer[i], pairs.wrong[i, 0]))
        assert number[noun] == number[answer] == 1 - number[other] == 1 - number[wrong]
        assert {noun.strip(), other.strip()} in [set(form) for form in forms]
    assert bool(((pairs.clean != pairs.corrupt).sum(1) == 1).all())
    assert bool((pairs.end > pairs.spans["VERB'S NOUN"]).all()) == (structure == "nounpp")


def test_the_repeated_word_was_followed_by_the_answer_in_the_clean_prompt_alone() -> None:
    tokenizer = TOKENIZERS["two"]
    pairs = task("induction", length=7).pairs(tokenizer, N, 0, BOS)
    last = at(tokenizer, pairs, "end")
    assert at(tokenizer, pairs, "copy") == last
    assert at(tokenizer, pairs, "copy+1") == [text(tokenizer, [token]) for token in pairs.answer.tolist()]
    assert at(tokenizer, pairs, "repeat") == [text(tokenizer, [token]) for token in pairs.clean[:, 1].tolist()]
    for clean, corrupt, answer in zip(pairs.clean.tolist(), pairs.corrupt.tolist(), pairs.answer.tolist(), strict=True):
        assert clean[1:7] == clean[8:] == corrupt[8:]
        assert not set(clean) & set(corrupt[1:8])
        assert answer not in corrupt


@pytest.mark.parametrize("relation", list(FACTS))
def test_answer_and_wrong_answer_are_those_of_the_two_subjects(relation: str) -> None:
    tokenizer = TOKENIZERS["two"]
    facts = dict(fact.split("/") for fact in FACTS[relation].split())  # pyright: ignore[reportArgumentType]
    pairs = task("relation", relation=relation).pairs(tokenizer, N, 0, BOS)
    for i, end in enumerate(pairs.end.tolist()):
        differs = (pairs.clean[i] != pairs.corrupt[i]).nonzero().flatten()
        assert int(differs[-1]) == int(pairs.spans["subject"][i])
        clean, corrupt = (
            set(text(tokenizer, s[i, : end + 1].tolist()).replace(",", " ").replace(";", " ").split()) for s in (pairs.clean, pairs.corrupt)
        )
        assert facts[(clean - corrupt).pop()] == text(tokenizer, [int(pairs.answer[i])]).strip()
        assert facts[(corrupt - clean).pop()] == text(tokenizer, [int(pairs.wrong[i, 0])]).strip()


def test_families_of_ioi_differ_in_where_the_names_stand() -> None:
    tokenizer = TOKENIZERS["two"]
    assert len({template for family in FAMILIES.values() for template in family}) == 4 * 8
    between = {}
    for family, templates in FAMILIES.items():
        for template in templates:
            assert all(template.count(f"{{{slot}}}") == 1 for slot in ("A", "B", "S", "PLACE", "OBJECT"))
            assert template.index("{A}") < template.index("{B}") < template.index("{S}")
            assert template.endswith(" to")
            assert ". {S}" in template if family == "late" else ". " not in template
        pairs = task("ioi", family=family).pairs(tokenizer, 16, 0, None)
        between[family] = torch.minimum(pairs.spans["IO"], pairs.spans["S1"]).float().mean()
    assert between["early"] < between["late"] < between["long"]


@pytest.mark.parametrize("kind", list(TASKS.values()), ids=lambda kind: kind.NAME)
def test_a_tokenizer_that_cannot_carry_a_task_is_refused_in_a_sentence(kind: type[Drawn], tiny_llama: Path) -> None:
    with pytest.raises(InputError, match=f"task {kind.NAME}.*needs.*choose a model trained on English text"):
        # Some words any tokenizer has: induction asks for more of them.
        one = Induction(length=500) if kind is Induction else kind()
        one.pairs(AutoTokenizer.from_pretrained(tiny_llama), 4, 0, None)


@pytest.mark.slow
def test_more_prompts_than_there_are_is_refused_with_their_number() -> None:
    tokenizer = TOKENIZERS["two"]
    n = len({tuple(row) for row in task("gendered_pronoun").pairs(tokenizer, len(NAMES) * 8, 0, None).clean.tolist()})
    assert n == len(NAMES) * 8
    with pytest.raises(InputError, match=f"has {n} different prompts under this tokenizer and {n + 1} were asked for"):
        task("gendered_pronoun").pairs(tokenizer, n + 1, 0, None)


def test_wrong_names_corruptions_and_options_are_refused_with_those_that_exist() -> None:
    assert task("greater-than") == GreaterThan()
    for arguments, options, sentence in (
        (("ioo",), {}, "choose one of ioi, greater_than"),
        (("agreement", "s2"), {}, "no corruption 's2'; choose one of number"),
        (("docstring", "s2"), {}, "choose one of random_random, random_def, random_answer"),
        (("agreement",), {"structure": "long"}, "choose one of simple, nounpp, within_rc"),
        (("agreement",), {"family": "long"}, "no option family; its options are corruption, structure"),
        (("induction",), {"length": "ten"}, "takes a whole number, and 'ten' is none"),
        (("induction",), {"length": 1}, "nothing to repeat"),
        (("prompts.jsonl", "s2"), {}, "task task_file has no corruption 's2'; choose one of file, hard"),
    ):
        with pytest.raises(InputError, match=sentence):
            task(*arguments, **options)


# Files


def written(folder: Path, rows: Sequence[Any], name: str = "prompts.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def question(subject: str, other: str, right: Any, wrong: Any, **more: Any) -> dict[str, Any]:
    return {"clean": f"The boy from {subject} speaks", "corrupt": f"The boy from {other} speaks", "right": right, "wrong": wrong, **more}


GOOD = [
    question("France", "Japan", " French", [" Japanese", " Thai"], spans={"place": "France", "first": 0}),
    question("Italy", "Poland", "Italian", "Polish", spans={"place": " Italy", "first": 0}),
    {"clean": "He left France and spoke", "corrupt": "He left Italy and spoke", "right": " French", "wrong": " Italian"}
    | {"spans": {"place": "France"}},
]


def test_a_file_gives_its_pairs_with_their_spans(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["two"]
    pairs = TaskFile(written(tmp_path, GOOD)).pairs(tokenizer, 3, 0, BOS)
    rows = {text(tokenizer, pairs.clean[i, 1 : int(pairs.end[i]) + 1].tolist()): i for i in range(3)}
    assert set(rows) == {row["clean"] for row in GOOD}
    for row in GOOD:
        i = rows[row["clean"]]
        assert text(tokenizer, pairs.corrupt[i, 1 : int(pairs.end[i]) + 1].tolist()) == row["corrupt"]
        assert text(tokenizer, [int(pairs.answer[i])]).strip() == row["right"].strip()
        wrong = row["wrong"] if isinstance(row["wrong"], list) else [row["wrong"]]
        assert {text(tokenizer, [token]).strip() for token in pairs.wrong[i].tolist()} == {word.strip() for word in wrong}
        assert at(tokenizer, pairs, "place")[i].strip() == row["spans"]["place"].strip()
    assert set(pairs.spans) == {"place", "end"}, "a span that not every line has is left out"
    assert bool((pairs.clean != pairs.corrupt).sum(1).eq(1).all())
    assert pairs.clean.tolist() == TaskFile(written(tmp_path, GOOD)).pairs(tokenizer, 3, 0, BOS).clean.tolist()
    without = TaskFile(written(tmp_path, GOOD)).pairs(tokenizer, 3, 0, None)
    assert torch.equal(pairs.spans["place"] - 1, without.spans["place"])


def test_what_is_dropped_is_counted_by_reason(tmp_path: Path) -> None:
    bad = {
        LENGTH: [question("France", "Italy and Poland", " French", " Italian")],
        ANSWER: [question("France", "Italy", " Franconian", " Italian"), question("France", "Italy", " French", [" Italian", " Ital xx"])],
        EQUAL: [question("France", "France", " French", " Italian")],
        SAME_ANSWER: [question("France", "Italy", " French", [" Italian", " French"])],
        REPEATED: [GOOD[0], GOOD[1], GOOD[0]],
    }
    file = TaskFile(written(tmp_path, [*GOOD, *(row for rows in bad.values() for row in rows)]))
    kept, dropped = file.usable(TOKENIZERS["two"])
    assert len(kept) == len(GOOD)
    assert dropped == {reason: len(rows) for reason, rows in bad.items()}
    assert file.dropped(TOKENIZERS["two"]) == dropped
    with pytest.raises(InputError, match=r"has 3 pairs .*1 because clean and corrupt have different lengths.* and 4 were asked for"):
        file.pairs(TOKENIZERS["two"], 4, 0, None)


def test_rare_lengths_are_taken_last(tmp_path: Path) -> None:
    pairs = [question(a, b, " he", " she") for a, b in (("France", "Italy"), ("Spain", "Peru"), ("Cuba", "Chile"), ("Iran", "Iraq"))]
    file = TaskFile(written(tmp_path, [GOOD[2], *pairs, {**GOOD[2], "clean": "In France", "corrupt": "In Italy"}]))
    assert len(file.pairs(TOKENIZERS["two"], 4, 3, None).group.unique()) == 1
    assert len(file.pairs(TOKENIZERS["two"], 6, 3, None).group.unique()) == 2 + (len(tokens(TOKENIZERS["two"], GOOD[2]["clean"])) != 5)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"clean": "a"', "line 4 is no JSON object"),
        ('["a"]', "line 4 is no object"),
        ({"clean": "a", "corrupt": "b", "right": " c"}, "line 4 has no wrong; write it in a field named wrong or patch_answer"),
        (question("France", "Italy", " French", []), "line 4 has an empty list of wrong answers"),
        (question("France", "Italy", " French", [None]), "line 4 has the answer None"),
        (question("France", "Italy", " French", " Italian", spans={"x": "Norway"}), "line 4 has the span 'Norway', which its clean prompt"),
        (question("France", "Italy", " French", " Italian", spans={"x": 99}), "line 4 has a span at token 99"),
        (question("France", "Italy", " French", " Italian", spans=[1]), "line 4 has spans"),
        (question("France", "Italy", 10**6, " Italian"), "line 4 has the token 1000000"),
        ({**GOOD[0], "clean": 3}, "line 4 has a prompt that is no text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TaskFile(written(tmp_path, [*GOOD, line])).usable(TOKENIZERS["two"])


def test_a_file_that_is_not_there_or_no_file_of_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        TaskFile(str(tmp_path / "none.jsonl")).usable(TOKENIZERS["two"])
    with pytest.raises(InputError, match="cannot be read"):
        TaskFile(str(tmp_path / "none.jsonl")).sha256()
    for content in ("3", "{}", '{"prompt_templates": ["no slot"], "samples": []}', "[", "[[]]"):
        with pytest.raises(InputError, match=r"prompts\.json"):
            TaskFile(written(tmp_path, [content], "prompts.json")).usable(TOKENIZERS["two"])
    with pytest.raises(InputError, match=r"ends in \.jsonl, \.json, \.csv"):
        TaskFile("prompts.txt")


def test_field_names_of_published_files_are_understood(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["two"]
    agreement = {"clean_prefix": "The boy", "patch_prefix": "The boys", "clean_answer": " is", "patch_answer": " are", "case": "singular"}
    copied = {"prompt": "Note: John likes Peru. John likes", "template": "x", "target_true": " Cuba", "target_new": " Peru"}
    relation = {"prompt_templates": ["In {} they speak"], "samples": [{"subject": a, "object": b} for a, b in FACT_PAIRS]}
    (one,), _ = TaskFile(written(tmp_path, [agreement])).usable(tokenizer)
    assert [text(tokenizer, [t]) for t in (one.answer, *one.wrong)] == [" is", " are"]
    (two,), _ = TaskFile(written(tmp_path, [json.dumps([copied])], "a.json")).usable(tokenizer)
    assert text(tokenizer, two.corrupt) == "Note: John likes Cuba. John likes"
    assert [text(tokenizer, [t]) for t in (two.answer, *two.wrong)] == [" Peru", " Cuba"]
    three, dropped = TaskFile(written(tmp_path, [json.dumps(relation)], "b.json")).usable(tokenizer)
    assert [text(tokenizer, p.clean) for p in three] == ["In France they speak", "In Italy they speak"]
    assert dropped == {ALONE: 1, ANSWER: 1}
    path = tmp_path / "c.csv"
    with path.open("w") as file:
        out = csv.writer(file)
        out.writerow(["", "clean", "corrupted", "corrupted_hard", "correct_idx", "incorrect_idx"])
        ending = "were here. {} gave a book to"
        out.writerow(["3", *(f"Then, John and Mary {ending.format(name)}" for name in ("John", "Peter", "Mary")), "77", "88"])
        out.writerow(["4", "The boy", "The girl", "The man", "300", "301"])
    for corruption, other in (("file", "Peter"), ("hard", "Mary")):
        (ioi, plain), _ = task(str(path), corruption).usable(tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
        assert [text(tokenizer, [t]) for t in (ioi.answer, *ioi.wrong)] == [" Mary", " John"], (
            "ids of an unnamed tokenizer are not believed"
        )
        assert f". {other} gave" in text(tokenizer, ioi.corrupt)
        assert (plain.answer, plain.wrong) == (300, (301,))


FACT_PAIRS = [("France", "French"), ("Italy", "Italian"), ("Upper Austria and Tyrol", "German"), ("Peru", "Aymara xx")]


# In the stage


@pytest.fixture(scope="module")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> models.Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("english"), TOKENIZERS["one"]
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return models.load(str(folder), "float32", "cpu")


@pytest.mark.parametrize("kind", list(TASKS.values()), ids=lambda kind: kind.NAME)
def test_scores_and_masks_read_what_the_task_reads(kind: type[Drawn], random_llama: models.Model) -> None:
    one = kind()
    pairs, whole = one.pairs(random_llama.tokenizer, 6, 0, BOS), graph(random_llama)
    values = replacement(random_llama, whole, pairs, "resample")
    everything, nothing = metrics(random_llama, one, pairs, whole, torch.stack((whole.valid, whole.valid & False)), values)
    clean, corrupt = clean_metric(random_llama, one, pairs), corrupt_metric(random_llama, one, pairs)
    assert torch.allclose(everything, clean, atol=1e-5)
    assert torch.allclose(nothing, corrupt, atol=1e-5)
    assert not torch.allclose(clean, corrupt, atol=1e-5)
    for method in (Eap(), Exact()):
        scores = method(random_llama, one, pairs, whole, values).per_example
        assert scores is not None
        assert bool(scores.isfinite().all())
        assert scores.abs().max() > 0


def test_a_run_records_what_its_task_resolved_to(tmp_path: Path) -> None:
    ctx = Context(device="cpu")
    config, _ = resolved(Circuit(task="greater-than"), ctx)
    assert (config["task"], config["corruption"], config["options"]) == ("greater_than", "year01", [])
    config, _ = resolved(Circuit(task="ioi"), ctx)
    assert (config["task"], config["corruption"], config["options"]) == ("ioi", "s2", ["family=short"])
    assert config == resolved(Circuit(corruption="s2", options=("family=short",)), ctx)[0]
    path = written(tmp_path, GOOD)
    config, _ = resolved(Circuit(task=path), ctx)
    assert (config["task"], config["corruption"]) == (path, "file")
    written(tmp_path, GOOD[:2])
    assert resolved(Circuit(task=path), ctx)[0] != config, "a changed file is another run"


@pytest.mark.parametrize("wrong", [{"task": "ioi", "corruption": "year01"}, {"options": ("family",)}, {"options": ("tone=soft",)}])
def test_what_the_task_does_not_have_is_refused_before_any_model_is_loaded(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Circuit(**wrong)


# What SmolLM2 solves: a little under what was measured over 60 pairs, without and with BOS.


def solved(one: AnyTask, n: int, bos: bool) -> tuple[float, float]:
    """Share of pairs with a metric above 0, and its mean."""
    model = models.load("smollm2")
    pairs = one.pairs(model.tokenizer, n, 0, model.bos if bos else None)
    metric = torch.cat([clean_metric(model, one, pairs.rows(slice(i, i + 20))) for i in range(0, n, 20)])
    return (metric > 0).float().mean().item(), metric.mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "share", "mean"),
    [
        ("ioi", {"family": "long"}, 0.95, 3.5),
        ("ioi", {"family": "late"}, 0.95, 3.9),
        ("ioi", {"family": "early"}, 0.7, 2.2),
        ("greater_than", {}, 0.97, 0.82),
        ("docstring", {}, 0.8, 1.5),
        ("gendered_pronoun", {}, 0.9, 3.6),
        ("induction", {}, 0.8, 3.5),
        ("agreement", {"structure": "simple"}, 0.95, 3.3),
        ("agreement", {"structure": "nounpp"}, 0.9, 2.1),
        ("agreement", {"structure": "within_rc"}, 0.95, 3.8),
        ("relation", {"relation": "capital"}, 0.95, 8.5),
        ("relation", {"relation": "language"}, 0.85, 3.5),
        ("relation", {"relation": "opposite"}, 0.9, 5.3),
        ("relation", {"relation": "past"}, 0.9, 3.6),
    ],
)
def test_smollm2_prefers_the_clean_answer(name: str, options: dict[str, str], share: float, mean: float, bos: bool) -> None:
    accuracy, metric = solved(task(name, **options), 60, bos)
    assert accuracy >= share
    assert metric >= mean


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "n", "share", "mean"),
    [
        ("eap-ig/ioi_llama.csv", 60, 0.93, 4.5),
        ("feature-circuits/simple.jsonl", 60, 0.95, 3.0),
        ("feature-circuits/nounpp.jsonl", 60, 0.88, 1.6),
        ("feature-circuits/within_rc.jsonl", 60, 0.93, 3.8),
        ("relations-lre/country_capital_city.json", 20, 0.9, 5.5),
        ("relations-lre/adj_antonym.json", 60, 0.83, 4.0),
        ("relations-lre/verb_past_tense.json", 60, 0.88, 2.5),
        ("relations-lre/object_superclass.json", 60, 0.7, 1.9),
    ],
)
def test_prompts_of_others_run_unchanged_and_are_solved_as_their_page_says(path: str, n: int, share: float, mean: float) -> None:
    accuracy, metric = solved(TaskFile(str(shared(f"cases/{path}"))), n, bos=False)
    assert accuracy >= share
    assert metric >= mean
