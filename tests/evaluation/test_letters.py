import pytest
from PIL import ImageFont

from bitgen.evaluation.letters import drawable

FONT = ImageFont.load_default(size=40)
BOX = bytes(FONT.getmask("\uffff"))


@pytest.mark.parametrize(
    ("words", "drawn"),
    [
        ("text→image", "text to image"),
        ("0.1 → 0.2", "0.1 to 0.2"),
        ("IoU ≥ 0.5, 3 × 4, 1 − GIoU", "IoU >= 0.5, 3 x 4, 1 - GIoU"),
        ("a café in Đà\nNẵng", "a cafe in Đa Nang"),
        ("“the dog” …", "“the dog” …"),
    ],
)
def test_words_become_such_as_the_font_has(words: str, drawn: str):
    assert drawable(words) == drawn


def test_the_font_has_every_sign_that_is_written_out():
    assert not [c for c in drawable("→×≥≤−–½é“”…·") if bytes(FONT.getmask(c)) == BOX]


def test_what_the_font_lacks_stays():
    assert drawable("犬 dog") == "犬 dog"
