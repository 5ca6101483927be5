"""Relations: "The capital of France is" -> " Paris". Facts and sentences are this project's own.

The corrupt prompt names another subject of as many tokens, whose own answer is the wrong one (as Hernandez et al. 2023, arXiv:2308.09124,
pair their samples).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.tasks.base import Pairs, logit_difference
from interp.tasks.prompts import ENGLISH, Prompt, after_word, assembled, distinct, encode, last_token
from saes.errors import InputError

RelationName = Literal["capital", "language", "opposite", "past"]
SubjectCorruption = Literal["subject"]
TEMPLATES: dict[RelationName, tuple[str, ...]] = {
    "capital": (
        "The capital of {} is",
        "As everyone knows, the capital of {} is",
        "We flew to {} and spent a week in its capital,",
        "The government of {} sits in the city of",
        "She was born in {}, in the capital city of",
    ),
    "language": (
        "Most people in {} speak",
        "The official language of {} is",
        "Before he moved to {}, he learned to speak",
        "The newspapers of {} are written in",
        "Her parents come from {}, so at home they speak",
    ),
    "opposite": (
        "The opposite of {} is",
        "It was not {}; on the contrary, it was",
        "One word means {}, the other one means",
        "If something is not {}, it is",
    ),
    "past": (
        "Today they {}, and yesterday they",
        "The past tense of the verb {} is",
        "I {} every day, and last week I also",
        "We often {} here, as our parents once",
    ),
}
FACTS: dict[RelationName, str] = {
    "capital": """
        France/Paris Italy/Rome Spain/Madrid Germany/Berlin Russia/Moscow Japan/Tokyo China/Beijing Egypt/Cairo Greece/Athens England/London
        Austria/Vienna Ireland/Dublin Poland/Warsaw Portugal/Lisbon Cuba/Havana Sweden/Stockholm Norway/Oslo Denmark/Copenhagen
        Finland/Helsinki Hungary/Budapest Turkey/Ankara Iran/Tehran Iraq/Baghdad Syria/Damascus Lebanon/Beirut Kenya/Nairobi Canada/Ottawa
        Peru/Lima Chile/Santiago Thailand/Bangkok Vietnam/Hanoi Indonesia/Jakarta India/Delhi Belgium/Brussels Scotland/Edinburgh
        Wales/Cardiff Venezuela/Caracas Qatar/Doha Australia/Canberra Pakistan/Islamabad Afghanistan/Kabul Nepal/Kathmandu Libya/Tripoli
        Ghana/Accra Romania/Bucharest Bulgaria/Sofia Serbia/Belgrade Croatia/Zagreb Philippines/Manila Switzerland/Bern
    """,
    "language": """
        France/French Italy/Italian Spain/Spanish Germany/German Russia/Russian Japan/Japanese China/Chinese Egypt/Arabic Greece/Greek
        England/English Austria/German Poland/Polish Portugal/Portuguese Cuba/Spanish Sweden/Swedish Norway/Norwegian Denmark/Danish
        Finland/Finnish Hungary/Hungarian Turkey/Turkish Iran/Persian Iraq/Arabic Syria/Arabic Mexico/Spanish Brazil/Portuguese
        Argentina/Spanish Peru/Spanish Chile/Spanish Thailand/Thai Vietnam/Vietnamese Korea/Korean Ukraine/Ukrainian Israel/Hebrew
        Romania/Romanian Bulgaria/Bulgarian Australia/English Jamaica/English Colombia/Spanish Morocco/Arabic Netherlands/Dutch
        Indonesia/Indonesian Scotland/English
    """,
    "opposite": """
        hot/cold big/small old/young up/down day/night black/white good/bad high/low long/short rich/poor fast/slow strong/weak hard/soft
        light/dark wet/dry full/empty open/closed happy/sad early/late first/last right/wrong true/false inside/outside above/below
        before/after near/far left/right love/hate war/peace life/death win/lose buy/sell push/pull give/take male/female north/south
        east/west clean/dirty thick/thin deep/shallow loud/quiet alive/dead public/private positive/negative
    """,
    "past": """
        go/went see/saw take/took give/gave come/came run/ran eat/ate drink/drank write/wrote speak/spoke break/broke drive/drove fly/flew
        grow/grew know/knew sing/sang swim/swam think/thought buy/bought bring/brought catch/caught teach/taught feel/felt keep/kept
        sleep/slept leave/left lose/lost build/built send/sent spend/spent find/found hold/held stand/stood understand/understood sit/sat
        win/won hear/heard sell/sold tell/told say/said make/made choose/chose wear/wore steal/stole fight/fought meet/met lead/led
    """,
}


@dataclass(frozen=True)
class Relation:
    """What stands in a relation to the subject."""

    NAME: ClassVar[str] = "relation"
    ABOUT: ClassVar[str] = "Relation: a fact about a subject, such as the capital of a country."
    METRIC: ClassVar[tuple[str, str]] = ("logit difference", "logits")
    CORRUPTIONS: ClassVar[dict[str, str]] = {
        "subject": "another subject is named, whose answer is the wrong one",
    }

    corruption: SubjectCorruption = "subject"
    """What the corrupt prompt changes. subject: the subject becomes another one, for which the wrong answer is right."""
    relation: RelationName = "capital"
    """capital: of a country. language: of a country. opposite: of a word. past: tense of a verb."""

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, seed: int, bos: int | None) -> Pairs:
        """Draw n different pairs over sentences and subjects."""
        facts = [(subject, answer) for subject, answer in (fact.split("/") for fact in FACTS[self.relation].split())]
        questions = [q for template in TEMPLATES[self.relation] for q in asked(tokenizer, template, facts)]
        with_partners = [(q, others) for q in questions if (others := partners(q, questions))]
        if not with_partners:
            raise InputError(
                f"the tokenizer has no two of {len(facts)} facts with subjects of equal length and answers of one token, as task relation "
                f"({self.relation}) needs; {ENGLISH}"
            )
        return assembled(distinct(_draws(with_partners, random.Random(seed)), n, f"{self.NAME} ({self.relation})"), bos)

    def metric(self, logits: Float[Tensor, "*runs pair read vocab"], pairs: Pairs) -> Float[Tensor, "*runs pair"]:
        """Logit of the subject's answer minus that of the other subject's."""
        return logit_difference(logits, pairs)


@dataclass(frozen=True)
class Question:
    """A sentence about a subject, with its answer."""

    template: str
    subject: str
    tokens: tuple[int, ...]
    at: int
    """The subject's last token."""
    answer: int


def asked(tokenizer: PreTrainedTokenizerBase, template: str, facts: Sequence[tuple[str, str]]) -> list[Question]:
    """The facts whose answer is one token, as sentences."""
    found = []
    for subject, answer in facts:
        answers = after_word(tokenizer, answer)
        if len(answers) == 1:
            tokens = encode(tokenizer, template.format(subject))
            at = last_token(tokenizer, tokens, template.partition("{}")[0] + subject)
            found.append(Question(template, subject, tokens, at, answers[0]))
    return found


def partners(question: Question, others: Sequence[Question]) -> list[Question]:
    """Questions in the same words, of the same length, with another answer."""
    return [
        o
        for o in others
        if (o.template, len(o.tokens)) == (question.template, len(question.tokens))
        and (o.subject, o.at) != (question.subject, question.at)
        and o.answer != question.answer
    ]


def paired(question: Question, other: Question) -> Prompt:
    """The question, corrupted by another one's subject."""
    layout = (question.template, len(question.tokens))
    return Prompt(question.tokens, other.tokens, question.answer, (other.answer,), {"subject": question.at}, layout)


def _draws(questions: Sequence[tuple[Question, Sequence[Question]]], draw: random.Random) -> Iterator[Prompt]:
    while True:
        question, others = draw.choice(questions)
        yield paired(question, draw.choice(others))
