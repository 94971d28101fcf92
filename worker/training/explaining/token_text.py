"""What every single token adds to a text, for tokenizers whose tokens may be pieces of characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"
# A character has at most four bytes: after so many tokens without an end, the bytes mean no character.
_LONGEST_CHARACTER = 4


def split_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return what each of ``ids`` adds to the text; joined, the pieces are the decoded text.

    A token that ends inside a character adds nothing; the token that completes the character adds it.
    """
    pieces: list[str] = []
    begin, told = 0, 0
    for end in range(1, len(ids) + 1):
        before = _decode(tokenizer, ids[begin:told])
        after = _decode(tokenizer, ids[begin:end])
        if after.endswith(_INCOMPLETE) and end - told < _LONGEST_CHARACTER and end < len(ids):
            pieces.append("")
            continue
        pieces.append(after[len(before) :])
        # Some tokenizers decode a token differently at the start of a text, so the last piece is decoded again.
        begin, told = told, end
    return pieces


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
