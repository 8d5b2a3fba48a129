"""What a FastChat worker reports about one of its models.

Source: FastChat, fastchat/serve/base_model_worker.py: `/worker_get_conv_template` → `{"conv": {...}}`,
`/model_details` → `{"context_length": n}`. TinyChat's workers have neither path.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from hierarchy.errors import EngineUnreadable
from hierarchy.translation.chat_template import KNOWN_STYLES, Conversation


class _TemplateResponse(msgspec.Struct):
    conv: Conversation


class _DetailsResponse(msgspec.Struct):
    context_length: int | None = None


@dataclass(frozen=True)
class WorkerProfile:
    """The chat template and the context length of a model."""

    #: None: the worker has no chat templates
    conversation: Conversation | None
    #: tokens of prompt and answer together; None: not known
    context_length: int | None

    @classmethod
    def decode(cls, conversation: bytes | None, details: bytes | None) -> WorkerProfile:
        """From the bodies of a worker's responses. None: the worker does not have the path.

        Raises:
            EngineUnreadable: the template is not what FastChat's workers send.
        """
        template = None if conversation is None else _decode_template(conversation)
        try:
            length = msgspec.json.decode(details or b"{}", type=_DetailsResponse).context_length
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            length = None  # requests are served without it, only not limited
        return cls(template, length if length and length > 0 else None)

    @property
    def is_tinychat(self) -> bool:
        """TinyChat's workers begin their text with the prompt, and ignore stop strings."""
        return self.conversation is None


def _decode_template(body: bytes) -> Conversation:
    """Raises EngineUnreadable."""
    try:
        template = msgspec.json.decode(body, type=_TemplateResponse).conv
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineUnreadable(f"sent no conversation template: {error}") from None
    if len(template.roles) < 2:
        raise EngineUnreadable("sent a conversation template that does not name two roles")
    if template.sep_style not in KNOWN_STYLES:
        raise EngineUnreadable(f"sent a conversation template with the unknown sep_style {template.sep_style}")
    return template


NO_PROFILE = WorkerProfile(None, None)
