"""What is looked for in a request's body, whatever its form: the fields that name models.

A key is for models, an engine serves some of its models, a rename replaces a name: all of this holds only if the engine
reads the same model from the body as this node did. Readers differ. Go's `encoding/json` ignores case, and takes the
last of two keys; serde refuses a second key; a form's reader may prefer the query. So a body that any common reader
could understand in another way is refused.

Source: Go, encoding/json ("case-insensitive matches") and net/http `Request.FormValue`; serde_json's limit on depth;
RFC 8259, section 4 ("names within an object SHOULD be unique"); cJSON, whose names end at a NUL.
"""

from __future__ import annotations

from typing import Final

from hierarchy.errors import BadRequest

MODEL: Final = "model"
MAX_MODEL_BYTES: Final = 4096  # of a model's name as it is written, escapes included
#: Fields by which a client can name a further model, or an adapter, which is a model of its own: LiteLLM and OpenRouter
#: (`fallbacks`, `models`), LM Studio and TabbyAPI (`draft_model`), SGLang (`lora_path`), TGI and LoRAX (`adapter_id`),
#: llama.cpp (`lora`), OpenAI's older clients (`engine`). Written as `folded` returns them.
FURTHER: Final = frozenset(
    {
        "adapter", "adapterid", "adapterids", "adaptername", "adapterpath", "adapters", "adaptersource", "basemodel",
        "contentpolicyfallbacks", "contextwindowfallbackdict", "contextwindowfallbacks", "defaultfallbacks",
        "deployment", "deploymentid", "draftmodel", "draftmodelname", "engine", "extrabody", "fallback",
        "fallbackmodel", "fallbackmodels", "fallbacks", "litellmparams", "lora", "loraadapter", "loraadapters",
        "loraid", "loraids", "loraname", "lorapath", "lorapaths", "lorarequest", "loras", "mergedadapters", "modelid",
        "modellist", "modelname", "modelpath", "models", "routersettings", "speculativemodel", "targetmodelnames",
    }
)  # fmt: skip
#: those of them that can hold other parameters as well
CONTAINERS: Final = frozenset({"extrabody", "litellmparams", "routersettings"})
_IGNORED: Final = str.maketrans("", "", "_-")


def folded(name: str) -> str:
    """A field's name as tolerant readers compare it: without case, `_`, `-` and blanks around it, up to a NUL."""
    return name.partition("\0")[0].casefold().translate(_IGNORED).strip()


class Found:
    """The fields of one body that name models, with their places in it."""

    def __init__(self, model: str, start: int, end: int, further: list[tuple[str, int, int]], streams: bool) -> None:
        self.model = model
        # Where its value is; in JSON the quotes are part of it.
        self.start = start
        self.end = end
        self.further = further  # fields of `FURTHER`: their names, and where their values are
        self.streams = streams  # `"stream": true`
        self.parts: dict[str, tuple[int, int]] = {}  # where the values of `prompt.FIELDS` are; the last of equal names
        self.salts: list[tuple[int, int]] = []  # where the values of `cache_salt` are, all of them

    def renamed(self, model: str, longer: int) -> Found:
        """The same after another name has replaced the model's. longer: by so many bytes."""
        found = Found(model, self.start, self.end + longer, [], self.streams)
        for name, (begin, end) in self.parts.items():
            moved = longer if begin >= self.end else 0
            found.parts[name] = begin + moved, end + moved
        return found


class BodyScan:
    """One pass over a body, in pieces as they come. It costs the same for each byte, whatever the bytes are."""

    def __init__(self) -> None:
        self.error: BadRequest | None = None  # why the body is refused
        self.refused = False  # whether it is; of one type, so compiled code may look at it for each token

    def feed(self, piece: bytes) -> None:
        """The next bytes of the body."""
        raise NotImplementedError

    def finish(self) -> Found:
        """All of the body has come.

        Raises:
            BadRequest: it does not name one model, to every reader the same.
        """
        raise NotImplementedError

    def refuse(self, message: str, param: str | None = None) -> None:
        """Refuse the body, unless it is refused already."""
        if not self.refused:
            self.refused = True
            self.error = BadRequest(message, param)


def no_model(kind: str) -> BadRequest:
    """The error for a body without the field. kind: what the body is."""
    return BadRequest(f"the {kind} has no 'model'; name one of GET /v1/models", param=MODEL)
