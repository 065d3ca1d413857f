"""Sphinx extension: the study's reports, copied into the built documentation.

Pages link to ``../reports/…/README.md``, which is what a reader of the repository sees. In the built documentation the
same link leads to the report's HTML page, or to its README rendered as one.
"""

import re
import shutil
from pathlib import Path

from docutils import nodes
from markdown_it import MarkdownIt
from sphinx import addnodes
from sphinx.application import Sphinx

REPORTS = Path(__file__).parents[1] / "reports"
README_LINK = re.compile(r'(href="[^":]*)README\.md"')
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }} td, th {{ padding: .2rem .6rem;
border-bottom: 1px solid #ccc }} img {{ max-width: 100% }}</style>
{body}</html>
"""


def link_to_html(app: Sphinx, doctree: nodes.document) -> None:
    """Replace each link to a report's README by one to its page."""
    for link in list(doctree.findall(addnodes.download_reference)):
        target = (Path(app.srcdir) / app.env.docname / ".." / link["reftarget"]).resolve()
        if target.is_relative_to(REPORTS):
            up = "../" * app.env.docname.count("/")
            page = target.relative_to(REPORTS).with_name("index.html") if target.name == "README.md" else None
            address = page or target.relative_to(REPORTS)
            link.replace_self(nodes.reference("", "", *link.children, refuri=f"{up}reports/{address.as_posix()}"))


def copy_reports(app: Sphinx, exception: Exception | None) -> None:
    """Put pages and figures next to the documentation."""
    if exception is not None or app.builder.format != "html":
        return
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    for readme in REPORTS.rglob("README.md"):
        folder = Path(app.outdir) / "reports" / readme.parent.relative_to(REPORTS)
        folder.mkdir(parents=True, exist_ok=True)
        if (readme.parent / "index.html").exists():
            shutil.copy(readme.parent / "index.html", folder)
        else:
            text = readme.read_text(encoding="utf-8")
            body = README_LINK.sub(r'\1index.html"', markdown.render(text))
            page = PAGE.format(title=text.partition("\n")[0].strip("# "), body=body)
            (folder / "index.html").write_text(page, encoding="utf-8")
    shutil.copytree(
        REPORTS, Path(app.outdir) / "reports", dirs_exist_ok=True, ignore=lambda folder, names: _no_pictures(folder, names)
    )


def _no_pictures(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_file() and not name.endswith(".svg")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both steps."""
    app.connect("doctree-read", link_to_html, priority=100)  # before Sphinx collects files to download
    app.connect("build-finished", copy_reports)
    return {"parallel_read_safe": True}
