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
README_LINK = re.compile(r'(href="[^":]*)README\.md(?=["#])')
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ padding: .2rem .6rem; border-bottom: 1px solid #ccc }} img {{ max-width: 100% }}</style>
{body}</html>
"""


def link_to_html(app: Sphinx, doctree: nodes.document) -> None:
    """Let each link to a report's README lead to its page."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        readme = (Path(app.srcdir) / f"{link['reftarget']}.md").resolve()
        if link.get("refdomain") == "doc" and readme.is_relative_to(REPORTS) and readme.exists():
            folder = f"{'../' * app.env.docname.count('/')}reports/{readme.parent.relative_to(REPORTS).as_posix()}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=f"{folder}/index.html"))


def copy_reports(app: Sphinx, exception: Exception | None) -> None:
    """Put the reports' pages and figures next to the documentation."""
    if exception is not None or app.builder.format != "html":
        return
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    for source in [*REPORTS.rglob("*.svg"), *REPORTS.rglob("README.md")]:
        target = Path(app.outdir) / "reports" / source.relative_to(REPORTS)
        target.parent.mkdir(parents=True, exist_ok=True)
        page = source.with_name("index.html")
        if source.suffix == ".svg":
            shutil.copy(source, target)
        elif page.exists():
            shutil.copy(page, target.parent)
        else:
            text = source.read_text(encoding="utf-8")
            body = README_LINK.sub(r"\1index.html", markdown.render(text))
            title = text.partition("\n")[0].strip("# ")
            target.with_name("index.html").write_text(PAGE.format(title=title, body=body), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register both steps."""
    app.connect("doctree-read", link_to_html)
    app.connect("build-finished", copy_reports)
