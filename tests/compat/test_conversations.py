"""What is recorded of FastChat's conversation templates is what FastChat makes of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.compat.programs import PYTHON, ROOT, needs_fastchat


@needs_fastchat
def test_the_recorded_conversations_are_fastchats(tmp_path: Path) -> None:
    found = tmp_path / "conversations.json"
    script = Path(__file__).parent / "record_conversations.py"
    subprocess.run([str(PYTHON), str(script), str(found)], check=True, cwd=tmp_path, capture_output=True)
    assert found.read_text() == (ROOT / "tests" / "data" / "fastchat" / "conversations.json").read_text()
