"""What is read from /proc, and the picture of it."""

import os
from xml.etree import ElementTree

import pytest

from tests.proof.vitals import Curve, Vitals, draw

_SVG = "{http://www.w3.org/2000/svg}"


def test_vitals_of_this_process_are_plausible() -> None:
    vitals = Vitals.of(os.getpid())

    assert 10**7 < vitals.rss < 10**10
    assert vitals.descriptors >= 3
    assert vitals.threads >= 1


def test_an_open_file_is_one_more_descriptor() -> None:
    before = Vitals.of(os.getpid()).descriptors
    with open(os.devnull):  # noqa: PTH123 - the shortest
        assert Vitals.of(os.getpid()).descriptors == before + 1


def test_median_is_of_the_part_that_is_asked_for() -> None:
    curve = Curve(title="", times=[0, 1, 2, 3, 4], values=[9, 9, 1, 2, 3])

    assert curve.median_between(0.5, 1.0) == 2


def test_picture_has_a_line_with_each_value_of_each_curve() -> None:
    curve = Curve(title="memory, MB", times=[0, 30, 60], values=[1, 2, 2])

    picture = ElementTree.fromstring(draw("two of them", [curve, curve]))  # noqa: S314 - our own

    lines = picture.findall(f"{_SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3]
    texts = [text.text for text in picture.iter(f"{_SVG}text")]
    assert texts[0] == "two of them"
    assert texts.count("memory, MB") == 2


@pytest.mark.parametrize(
    ("highest", "labels"),
    [
        (52.9, ["0", "20", "40", "60"]),
        (9, ["0", "2", "4", "6", "8", "10"]),
        (100, ["0", "20", "40", "60", "80", "100"]),
        (0.03, ["0", "0.01", "0.02", "0.03"]),
        (52_900, ["0", "20,000", "40,000", "60,000"]),
    ],
)
def test_numbers_of_a_picture_are_round_and_begin_at_zero(
    highest: float, labels: list[str]
) -> None:
    curve = Curve(title="", times=[0, 1800], values=[1e-3, highest])

    picture = ElementTree.fromstring(draw("", [curve]))  # noqa: S314 - our own

    texts = [text for text in picture.iter(f"{_SVG}text") if text.get("text-anchor") == "end"]
    assert [text.text for text in texts] == labels
    assert "30" in [text.text for text in picture.iter(f"{_SVG}text")]
