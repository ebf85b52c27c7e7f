# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Pages that are bad in one way each: what scripts/report_screens.py finds in them."""
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import report_screens  # noqa: E402

PAPER = "<style>:root{--paper:#fff}@media(prefers-color-scheme:dark){:root{--paper:#000}}html{background:var(--paper)}"
SVG = '<svg aria-label="picture" viewBox="0 0 100 100" width="100" height="100">'
PAGES = {
    "good": (PAPER + "p{color:#777}</style><p style='color:#767676'>text</p>", []),
    "wide": (PAPER + "</style><div style='width:500px;height:9px'></div>", ["the page is 508 px wide in a window of 390"]),
    "pale": (PAPER + "</style><p style='color:#aaa'>pale</p>", ['contrast 2.32 of "pale"']),
    "pale in a picture": (PAPER + "</style>" + SVG + "<text y='20' fill='#aaa'>pale</text></svg>", ['contrast 2.32 of "pale"']),
    "overlap": (PAPER + "</style>" + SVG + "<text y='20'>one</text><text x='5' y='22'>two</text></svg>", ['picture: "one" overlaps "two"']),
    "clipped": (PAPER + "</style>" + SVG + "<text x='80' y='20'>clipped</text></svg>", ['picture: "clipped" leaves the picture']),
    "small": (PAPER + "</style>" + SVG + "<text y='20' font-size='5'>x</text></svg>", ["picture: text of 5.0 px"]),
}


@unittest.skipUnless(report_screens.browser(None), "no Chromium")
class ReportScreens(unittest.TestCase):
    def test_each_fault_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, (body, wanted) in PAGES.items():
                page = pathlib.Path(folder) / "page.html"
                page.write_text(f"<!DOCTYPE html><title>x</title><body>{body}</body>")
                with self.subTest(name):
                    self.assertEqual(report_screens.look(report_screens.browser(None), page, 390, "light")["found"], wanted)

    def test_the_scheme_is_the_one_that_was_asked_for(self):
        with tempfile.TemporaryDirectory() as folder:
            page = pathlib.Path(folder) / "page.html"
            page.write_text(f"<!DOCTYPE html><title>x</title><body>{PAPER}</style><p style='color:#333'>text</p></body>")
            found = {scheme: report_screens.look(report_screens.browser(None), page, 390, scheme)["found"] for scheme in report_screens.SCHEMES}
            self.assertEqual(found["light"], [])
            self.assertEqual(found["dark"], ['contrast 1.66 of "text"'])
