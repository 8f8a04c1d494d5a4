from html.parser import HTMLParser

from bitgen.evaluation.page import document, facts, paragraph, size, size_warning, table, text, warning_of_size


class Reader(HTMLParser):
    """Collects tags, and complains about one that is closed in the wrong place."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_a_document_closes_what_it_opens():
    page = document("Title", "lead", [("One", paragraph("a")), ("Two", paragraph("b"))], "end")
    assert read(page).seen.count("h2") == 2


def test_a_document_forbids_scripts_and_everything_from_elsewhere():
    page = document("Title", "lead", [])
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline';" in page


def test_the_policy_comes_before_anything_it_governs():
    page = document("Title", "lead", [])
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_titles_headings_and_cells_are_escaped():
    bad = "<script>'\"&"
    page = document(bad, bad, [(bad, table((bad,), [(bad,)])), ("x", facts({bad: bad}))], bad)
    assert "<script" not in page
    assert "&lt;script&gt;&#x27;&quot;&amp;" in page


def test_control_characters_are_shown_and_not_sent():
    assert text("a\x00b\u202ec") == "a\ufffdb\ufffdc"


def test_columns_of_numbers_are_aligned_to_the_right():
    found = table(("name", "count"), [("a", "1,000"), ("b", "–")])
    assert '<td>a</td><td class="number">1,000</td>' in found
    assert '<td class="number">+2.5</td>' in table(("difference",), [("+2.5",), ("-0.5",)])


def test_a_column_with_a_word_is_not():
    assert 'class="number"' not in table(("name",), [("12 and more",), ("b",)])


def test_an_empty_table_has_a_header():
    assert "<th" in table(("name",), [])


def test_sizes_are_in_powers_of_a_thousand():
    assert [size(n) for n in (999, 1000, 4_700_000, 2.5e12)] == ["999 bytes", "1.0 kB", "4.7 MB", "2.50 TB"]


def test_a_tiny_training_set_is_warned_of():
    assert "43 images" in warning_of_size(43)
    assert "mean nothing" in size_warning(999)


def test_a_thousand_training_images_are_not():
    assert warning_of_size(1000) == ""
