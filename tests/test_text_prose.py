"""What survives of a docstring, one rule at a time."""

import pytest

from interp.text.prose import paragraphs

PROSE = "The tensor is moved to the device before the first step of the loop."


def only(docstring: str) -> list[str]:
    return list(paragraphs(docstring))


def test_wrapped_lines_become_one_paragraph():
    assert only("The tensor is moved to the device\n    before the first step of the loop.\n    ") == [PROSE]


@pytest.mark.parametrize(
    "block",
    [
        ">>> move(tensor, device)\ntensor([1, 2, 3])",
        "    an indented block is code or belongs to a list, whatever it says.",
        ":param x: The tensor that is moved to the device before the loop.",
        ".. math:: e = mc^2",
        "The energy :math:`E` of the system is the sum over all of its states.",
        r"The energy $\frac{1}{2}mv^2$ of the system is the sum over all states.",
        "- The tensor is moved to the device before the first step of the loop.",
        "1. The tensor is moved to the device before the first step of the loop.",
        "| name | meaning |\n|------|---------|\n| a | the first of them |",
        "=====  =====\nname   kind\n=====  =====",
        "the tensor is moved, but this sentence begins in the middle of one.",
        "The tensor is moved to the device but this sentence has no end",
        "Copyright 2020 by the authors of this package, who keep all of their rights.",
        "Too short for prose.",
        "Construct a {name} from the values that are given in the {field} field.",
    ],
)
def test_what_is_no_prose_is_dropped(block: str):
    assert only(f"{PROSE}\n\n{block}\n\n{PROSE}") == [PROSE, PROSE]


@pytest.mark.parametrize("title", ["Parameters", "Returns", "See Also", "Examples", "Other Parameters", "References"])
def test_sections_that_list_things_are_dropped_up_to_the_next_section(title: str):
    inside = "This sentence explains what the listed thing is and does for you."
    docstring = f"{PROSE}\n\n{title}\n{'-' * len(title)}\n{inside}\n\n{inside}\n\nNotes\n-----\n{PROSE}"
    assert only(docstring) == [PROSE, PROSE]


@pytest.mark.parametrize("note", [".. note::\n    {}", ".. warning::\n\n    {}", "Note:\n    {}"])
def test_the_body_of_a_note_is_prose(note: str):
    inside = "This sentence warns of something that has happened to many others."
    assert only(f"{PROSE}\n\n{note.format(inside)}\n\n{PROSE}") == [PROSE, inside, PROSE]


def test_a_list_of_parameters_under_a_label_is_dropped():
    assert only(f"{PROSE}\n\nArgs:\n    x: The tensor that is moved to the device before the loop.\n") == [PROSE]


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        (":class:`~torch.Tensor`", "torch.Tensor"),
        (":py:meth:`~.Poly.factor`", "Poly.factor"),
        ("``coef_``", "coef_"),
        ("`coef_`", "coef_"),
        ("[`BertModel`]", "BertModel"),
        ("**very** big", "very big"),
        ("*very* big", "very big"),
        ("`the guide <https://example.org/guide>`_", "the guide"),
        (":ref:`the guide <guide>`", "the guide"),
        ("[the guide](https://example.org/guide)", "the guide"),
        ("method [1]_", "method [1]"),
    ],
)
def test_markup_is_reduced_to_its_text(marked: str, plain: str):
    assert only(f"Here we describe how the {marked} of the model is used by others.") == [
        f"Here we describe how the {plain} of the model is used by others."
    ]


def test_the_sentence_that_announces_an_example_goes_with_it():
    assert only(f"{PROSE} For example, one can write::\n\n    move(x)\n") == [PROSE]
    assert only("For example, one can write the following two or three lines::\n\n    move(x)\n") == []
