"""What `make docs` adds to mkdocs: pages from files outside docs/, the reference of settings, formulas as MathML.

GitHub shows the Markdown files as they stand; the site has the same ones. Links to files that the site does not have
become plain text.
"""

import base64
import html
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import latex2mathml.converter
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import settings_reference

ROOT = Path(__file__).parents[1]
# File of the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarking.md",
    "benchmarks/LOG.md": "benchmark_log.md",
    "docs/tour.ipynb": "tour.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
WORKER = "https://unpkg.com/iframe-worker/shim"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```[ \t]*$)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        if source.endswith(".ipynb"):
            files.append(File.generated(config, page, content=notebook_page(ROOT / source)))
        else:
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "settings.md", content=settings_reference.page(commit())))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else LINK.sub(lambda link: _link(link, source, page), part) for part in parts
    )


def on_page_content(content: str, **_: object) -> str:
    return FORMULA.sub(_formula, content)


def on_post_page(output: str, page: Page, **_: object) -> str:
    # The theme fetches this one script; docs/javascripts has a copy.
    here = posixpath.dirname(page.file.dest_uri) or "."
    return output.replace(WORKER, posixpath.relpath("javascripts/iframe-worker.js", here))


def on_post_template(output_content: str, **_: object) -> str:
    return output_content.replace(WORKER, "/javascripts/iframe-worker.js")


def commit() -> str:
    """The commit that the site is built of, or nothing outside a repository."""
    answer = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip()


def notebook_page(path: Path) -> str:
    """Texts, code, and what it printed and drew."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                raw = "".join(data["image/png"].split())
                base64.b64decode(raw, validate=True)
                parts.append(f'<img alt="Output of the cell above" src="data:image/png;base64,{raw}">')
            elif text := output.get("text") or data.get("text/plain"):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _link(link: re.Match[str], source: str, page: Page) -> str:
    mark, text, target = link.groups()
    path, hash_mark, anchor = target.partition("#")
    if not path or re.match(r"\w+:", path):
        return link[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if wanted in PAGES:
        there = PAGES[wanted]
    elif wanted.startswith("docs/"):
        there = wanted.removeprefix("docs/")
    elif (ROOT / wanted).exists():
        return text  # a file that only the repository has
    else:
        return link[0]  # leads nowhere: mkdocs says so
    here = posixpath.dirname(page.file.src_uri) or "."
    return f"{mark}[{text}]({posixpath.relpath(there, here)}{hash_mark}{anchor})"


def _formula(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    return latex2mathml.converter.convert(html.unescape(found[2]).strip(), display=display)
