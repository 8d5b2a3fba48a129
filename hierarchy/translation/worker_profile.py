"""What a FastChat worker says of itself for one model.

Source: FastChat, fastchat/serve/base_model_worker.py: `/worker_get_conv_template` → `{"conv": {...}}`,
`/model_details` → `{"context_length": n}`. TinyChat's workers have neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from hierarchy.errors import EngineUnreadable
from hierarchy.translation.chat_template import KNOWN_STYLES, Conversation


class _Template(msgspec.Struct):
    conv: Conversation


class _Details(msgspec.Struct):
    context_length: int | None = None


@dataclass(frozen=True)
class Profile:
    """conversation: None for a worker that has none. context_length: in tokens, prompt and answer together."""

    conversation: Conversation | None
    context_length: int | None

    @classmethod
    def read(cls, conversation: bytes | None, details: bytes | None) -> Profile:
        """From a worker's answers; None: it does not know the path.

        Raises:
            EngineUnreadable: an answer is not what FastChat's workers send.
        """
        template = None
        if conversation is not None:
            try:
                template = msgspec.json.decode(conversation, type=_Template).conv
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise EngineUnreadable(f"sent no conversation template: {error}") from None
            if len(template.roles) < 2:
                raise EngineUnreadable("sent a conversation template that does not name the two roles")
            if template.sep_style not in KNOWN_STYLES:
                raise EngineUnreadable(f"sent a conversation template of unknown sep_style {template.sep_style}")
        try:
            length = msgspec.json.decode(details or b"{}", type=_Details).context_length
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            length = None  # it costs a limit, and nothing else
        return cls(template, length if length and length > 0 else None)

    @property
    def is_tinychat(self) -> bool:
        """Such workers put the prompt before their answers, and know no stop strings."""
        return self.conversation is None


NO_PROFILE = Profile(None, None)
