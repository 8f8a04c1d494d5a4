"""The page of `bitgen-app`, in Gradio: where its parts stand, and which click asks the desk for what.

Whatever the desk refuses is shown as a warning in the page, and nothing else on it changes. What comes from a user, such as a name
to remember, is shown as text, never as HTML.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import gradio as gr
from gradio.themes import Default, Font

from bitgen.deploy.desk import REFUSED, Desk
from bitgen.deploy.memory import MAX_NAME, MemoryFileError
from bitgen.deploy.runtime import PictureError, Seen

# System fonts: those that Gradio brings lack most letters in bold, and are files to load.
_FONT, _MONO = (Font("system-ui"), Font("sans-serif")), (Font("monospace"),)
THEME = Default(primary_hue="blue", font=_FONT, font_mono=_MONO)
CSS = """
footer { display: none !important; }
.gradio-container { max-width: 1280px !important; }
#title h1 { margin: 0; }
#title p { margin: 0.2em 0 0; opacity: 0.75; }
.question .input-container {
    align-items: center; border: 1px solid var(--border-color-primary); border-radius: var(--input-radius);
}
.question .submit-button {
    margin: 4px; color: var(--button-primary-text-color); background: var(--button-primary-background-fill);
}
#picture img { width: 100%; height: 100%; object-fit: contain; }
"""
EMPTY = (None, "", None, None, "", "", None, "")
"""What stands where a new picture changes things, the picture aside, while there is none."""


@dataclass(frozen=True)
class Parts:
    """What stands on the page and is read or changed by a click."""

    picture: gr.Image
    seen: gr.State
    caption: gr.Textbox
    phrase: gr.Textbox
    boxed: gr.Image
    heated: gr.Image
    found: gr.Textbox
    text: gr.Textbox
    fit: gr.Textbox
    name: gr.Textbox
    recalled: gr.Label
    said: gr.Textbox
    known: gr.Radio
    forget: gr.Button

    @property
    def of_picture(self) -> list[Any]:
        found = [self.boxed, self.heated, self.found]
        return [self.picture, self.seen, self.caption, *found, self.fit, self.recalled, self.said]

    @property
    def of_names(self) -> list[Any]:
        return [self.name, self.known, self.recalled, self.said]


def page(desk: Desk) -> gr.Blocks:
    """To be served by `bitgen.deploy.serving.served`."""
    with gr.Blocks(title="BitGen", analytics_enabled=False) as blocks:
        _wire(blocks, _lay_out(desk), desk)
    return blocks


def _lay_out(desk: Desk) -> Parts:
    facts = desk.runtime.packed.facts
    gr.Markdown(f"# BitGen\n{facts.run}, step {facts.step}. What is shown here stays on this machine.", elem_id="title")
    with gr.Row():
        with gr.Column(scale=4):
            picture = gr.Image(
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                buttons=["fullscreen"],
                label="Picture",
                height=384,
                elem_id="picture",
            )
            caption = _answer("caption", "Caption", lines=2, show_label=True, container=True)
        with gr.Column(scale=8):
            phrase = _question("phrase", "Where is it? A phrase", "the red circle", "Find")
            with gr.Row():
                boxed, heated = _drawing("boxed", "Box"), _drawing("heated", "Heat-map")
            found = _answer("found", "What was found")
    with gr.Row():
        with gr.Column(scale=4):
            text = _question("text", "Does it fit? A text about the picture", "a photo of a dog", "Compare")
            fit = _answer("fit", "How well it fits", lines=2)
        with gr.Column(scale=4):
            name = _question("name", "Who or what is it? A name to remember", "Rex", "Teach", max_length=MAX_NAME)
            known = gr.Radio(label="Known names", choices=_known(desk), interactive=True, elem_id="known")
            forget = gr.Button("Forget the chosen name", size="sm", elem_id="forget")
        with gr.Column(scale=4):
            recalled = gr.Label(label="Recalled for the picture", show_heading=False, elem_id="recalled")
            said = _answer("said", "What was recalled", lines=2)
    return Parts(
        picture, gr.State(), caption, phrase, boxed, heated, found, text, fit, name, recalled, said, known, forget
    )


def _question(element: str, label: str, such_as: str, button: str, **options: Any) -> gr.Textbox:
    """A line to write, with its button."""
    return gr.Textbox(
        label=label,
        placeholder=such_as,
        submit_btn=button,
        max_lines=1,
        elem_id=element,
        elem_classes="question",
        **options,
    )


def _answer(
    element: str, label: str, *, lines: int = 1, show_label: bool = False, container: bool = False
) -> gr.Textbox:
    return gr.Textbox(
        label=label, lines=lines, show_label=show_label, container=container, interactive=False, elem_id=element
    )


def _drawing(element: str, label: str) -> gr.Image:
    return gr.Image(label=label, format="png", buttons=["fullscreen"], interactive=False, height=384, elem_id=element)


def _wire(blocks: gr.Blocks, parts: Parts, desk: Desk) -> None:
    def on(
        triggers: Any, act: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], **options: Any
    ) -> None:
        # One place in one queue: a click waits until those before it are answered.
        gr.on(
            triggers, _warning(act), list(inputs), list(outputs), concurrency_limit=1, concurrency_id="desk",
            api_visibility="private", show_progress="minimal", **options,
        )  # fmt: skip

    def look(given: Mapping[str, Any] | None) -> Any:
        kept = gr.skip()  # the picture: another may stand there by now
        if given is None:
            return kept, *EMPTY
        try:
            seen = desk.look(given["path"], given["orig_name"] or "")
        except REFUSED as error:
            _warn(error)
            return None, *EMPTY
        recalled = desk.recall(seen)
        return kept, seen, desk.caption(seen), None, None, "", "", dict(recalled.names) or None, recalled.said

    def find(seen: Seen | None, phrase: str) -> Any:
        place = desk.find(_one(seen), phrase)
        return place.boxed, place.heated, place.said

    def compare(seen: Seen | None, text: str) -> str:
        return desk.fit(_one(seen), text)

    def teach(seen: Seen | None, name: str) -> Any:
        desk.teach(_one(seen), name)
        return "", *_after(desk, seen)

    def forget(seen: Seen | None, name: str | None) -> Any:
        if name is None:
            raise MemoryFileError("expected a name chosen from those known, found none")
        desk.forget(name)
        return gr.skip(), *_after(desk, seen)

    # Unprepared: Gradio would open the picture with any of Pillow's decoders, and its errors say less. It does make sure that the
    # file was uploaded. Multiple: one that is chosen while the last is still being removed would not be looked at.
    on(
        [parts.picture.upload, parts.picture.clear],
        look,
        [parts.picture],
        parts.of_picture,
        preprocess=False,
        trigger_mode="multiple",
    )
    on([parts.phrase.submit], find, [parts.seen, parts.phrase], [parts.boxed, parts.heated, parts.found])
    on([parts.text.submit], compare, [parts.seen, parts.text], [parts.fit])
    on([parts.name.submit], teach, [parts.seen, parts.name], parts.of_names)
    on([parts.forget.click], forget, [parts.seen, parts.known], parts.of_names)
    on([blocks.load], lambda: gr.update(choices=_known(desk), value=None), [], [parts.known])


def _after(desk: Desk, seen: Seen | None) -> tuple[Any, Any, str]:
    """What stands in the list of names, and what is recalled, once the names have changed."""
    listed = gr.update(choices=_known(desk), value=None)
    if seen is None:
        return listed, None, ""
    recalled = desk.recall(seen)
    return listed, dict(recalled.names) or None, recalled.said


def _known(desk: Desk) -> list[tuple[str, str]]:
    return [(f"{name} ({count} picture{'s' * (count > 1)})", name) for name, count in desk.names().items()]


def _one(seen: Seen | None) -> Seen:
    if seen is None:
        raise PictureError("expected a picture first, found none: drop one on the left")
    return seen


def _warning(act: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but what is refused becomes a warning in the page."""

    @wraps(act)
    def acted(*given: Any) -> Any:
        try:
            return act(*given)
        except REFUSED as error:
            _warn(error)
            return gr.skip()

    return acted


def _warn(error: Exception) -> None:
    gr.Warning(html.escape(str(error)))  # Gradio shows it as HTML
