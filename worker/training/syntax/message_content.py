"""Message contents in the shapes of OpenAI's graders: a text, a part with a text, or a list of both."""

from typing import Any

_TEXT_PARTS = ("input_text", "output_text", "text")


def join_text_parts(content: Any) -> Any:
    """Return the text of ``content``; whatever has an unknown shape is returned as it is, for others to refuse.

    Raises:
        ValueError: A part is an image or sound.
    """
    parts = [_text(part) for part in (content if isinstance(content, list) else [content])]
    return "".join(parts) if parts and all(isinstance(part, str) for part in parts) else content


def _text(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if part.get("type") in _TEXT_PARTS and part.keys() <= {"type", "text"}:
        return part.get("text")
    raise ValueError(f"a part of a message must be text, of type {', '.join(_TEXT_PARTS)}")
