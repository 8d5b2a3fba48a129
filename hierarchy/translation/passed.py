"""The answer of a FastChat worker to what only workers serve: as it is, but never with a status other than 200.

Source: FastChat, fastchat/serve/openai_api_server.py `fetch_remote`: what came with another status is a string
to it, which it keeps as the model's conversation template for good.
"""

from __future__ import annotations

import msgspec

from hierarchy.translation.response import Collected, excerpt

INTERNAL_ERROR = 50001  # FastChat's code


class Passed(Collected):
    def end(self) -> bytes:
        body = self._collected()
        if self.status_in == 200:
            return body
        self._refuse_broken(body)
        text = f"the worker answered {self.status_in}: {excerpt(body)}"
        return msgspec.json.encode({"text": text, "error_code": INTERNAL_ERROR})
