# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The reference of the package is made without a warning, and has signatures and tables of arguments."""
import html
import re
import subprocess
import sys

import pytest
from cases import SOURCE


def test_the_reference_is_made(tmp_path):
    pytest.importorskip("pdoc")
    made = subprocess.run([sys.executable, "-W", "error::UserWarning", SOURCE / "scripts/python_reference.py", tmp_path],
                          capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "switchyard.html").read_text()
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "fused_experts(" in text and "order: GateUpOrder" in text
    assert "  ids      in   i32 or i64 [T, K]; -1: no expert\n" in text
    assert 'id="MoeLayer.forward"' in page and 'id="BadRouting"' in page
    assert not (tmp_path / "switchyard" / "bench.html").exists()
