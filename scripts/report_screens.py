#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at pages of `switchyard report` in headless Chromium: wide and narrow, light and dark.

    scripts/report_screens.py build/cpu/switchyard             checks
    scripts/report_screens.py build/cpu/switchyard --save DIR  and keeps a screenshot of each

What is checked: the page is no wider than the window, every text has a contrast of at least 4.5 to 1 against what is
behind it, and no text of a picture overlaps another or leaves the picture. Ends with 77 where there is no Chromium.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
SKIPPED = 77
# Pages by name: results files, some of which tests write.
PAGES = {"gpu": ["h100.json", "h100_peers.tsv"], "ranks": ["h200x2.json", "h200x2_own_sums.json", "LOAD"], "cpu": ["cpu.json"]}
WIDTHS, HEIGHT = (1280, 390), 900
SCHEMES = {"dark": 0, "light": 1}  # as the engine numbers them
LEAST_CONTRAST = 4.5
POLICY = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
# Runs in a copy of the page, whose policy would forbid it, and leaves what it found as the title.
LOOK = r"""
<script>addEventListener('load', () => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const found = [], root = document.documentElement;
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const numbers = c => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const luminance = c => { const [r, g, b] = numbers(c); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
  const seen = c => c !== 'transparent' && !(numbers(c).length > 3 && numbers(c)[3] === 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (seen(c)) return c; } return 'rgb(255,255,255)'; };
  const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} px wide in a window of ${root.clientWidth}`);
  let least = 100, texts = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || ['SCRIPT', 'STYLE', 'TITLE', 'title'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), ratio = contrast(e.tagName === 'text' ? style.fill : style.color, behind(e));
    ++texts; least = Math.min(least, ratio);
    if (ratio < LEAST) found.push(`contrast ${ratio.toFixed(2)} of "${text.slice(0, 40)}"`);
  }
  for (const svg of document.querySelectorAll('svg')) {
    const name = svg.getAttribute('aria-label'), frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    boxes.forEach(([text, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        found.push(`${name}: "${text}" leaves the picture`);
      for (const [other, b] of boxes.slice(i + 1))
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
          found.push(`${name}: "${text}" overlaps "${other}"`);
    });
    const small = [...svg.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize) * frame.width / svg.viewBox.baseVal.width);
    if (Math.min(...small) < 8.5) found.push(`${name}: text of ${Math.min(...small).toFixed(1)} px`);
  }
  document.title = JSON.stringify({width: root.clientWidth, dark: matchMedia('(prefers-color-scheme: dark)').matches,
                                   least, texts, pictures: document.querySelectorAll('svg').length, found});
});</script></body>"""


def browser(given):
    for name in [given] if given else BROWSERS:
        if path := shutil.which(name):
            return path
    return None


def chromium(program, page, width, scheme, *arguments):
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run([program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                               "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", f"--window-size={width},{HEIGHT}",
                               f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", *arguments, page.as_uri()],
                              capture_output=True, text=True, timeout=120, check=False)
    return done.stdout


def look(program, page, width, scheme):
    """What the page itself measured."""
    copy = page.with_suffix(".look.html")
    copy.write_text(POLICY.sub("", page.read_text()).replace("</body>", LOOK.replace("LEAST", str(LEAST_CONTRAST))))
    title = re.search(r"<title>(\{.*?\})</title>", chromium(program, copy, width, scheme, "--dump-dom"), re.S)
    if not title:
        return {"found": ["the page was not loaded"]}
    text = title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\u00a0").replace("&amp;", "&")
    seen = json.loads(text)
    if seen["width"] != width or seen["dark"] != (scheme == "dark"):
        seen["found"].append(f"this browser shows {seen['width']} px, dark {seen['dark']}, which was not asked for")
    return seen


def only(page, parts):
    """A copy without the others; of a page that is scrolled headless Chromium takes no picture."""
    copy, wanted = page.with_suffix(".only.html"), ",".join(f"#{part}" for part in parts or [])
    style = f"section:not(:has({wanted})){{display:none}}" if parts else ""
    copy.write_text(page.read_text().replace("</head>", f"<style>{style}</style></head>"))
    return copy


def write_pages(program, source, folder):
    """Each page by its name."""
    load = folder / "load.json"
    counts = [round(4096 / (i + 1) ** 0.7) for i in range(128)]
    load.write_text(json.dumps({"layer": "preset qwen3-30b-a3b, random weights", "expert_counts": counts}))
    pages = {}
    for name, files in PAGES.items():
        pages[name] = folder / f"{name}.html"
        paths = [load if file == "LOAD" else source / "bench/results" / file for file in files]
        subprocess.run([program, "report", *paths, "--output", pages[name]], check=True, stdout=subprocess.DEVNULL)
    return pages


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--source", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--browser", help=f"default: the first of {', '.join(BROWSERS)}")
    parser.add_argument("--save", type=pathlib.Path, help="folder for <page>-<width>-<scheme>.png")
    parser.add_argument("--height", type=int, default=1600, help="of what is saved")
    parser.add_argument("--only", type=lambda ids: ids.split(","), help="parts of the page that are saved: layers,ratio")
    arguments = parser.parse_args()
    if not (program := browser(arguments.browser)):
        print(f"skipped: no Chromium (none of {', '.join(BROWSERS)} is installed)")
        return SKIPPED
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, page in write_pages(arguments.program.resolve(), arguments.source, pathlib.Path(folder)).items():
            for width in WIDTHS:
                for scheme in SCHEMES:
                    seen = look(program, page, width, scheme)
                    faults += len(seen["found"])
                    print(f"{name} {width} {scheme}: {seen.get('texts', 0)} texts, least contrast {seen.get('least', 0):.2f}, "
                          f"{seen.get('pictures', 0)} pictures, {len(seen['found'])} faults")
                    print("".join(f"  {fault}\n" for fault in seen["found"][:20]), end="")
                    if arguments.save:
                        arguments.save.mkdir(parents=True, exist_ok=True)
                        picture = arguments.save.resolve() / f"{name}-{width}-{scheme}.png"
                        chromium(program, only(page, arguments.only), width, scheme, f"--window-size={width},{arguments.height}",
                                 f"--screenshot={picture}")
    print(f"report screens: {'good' if not faults else f'{faults} faults'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
