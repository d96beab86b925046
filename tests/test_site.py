"""The site: builds without a warning, holds the labs with their outputs, loads nothing from elsewhere, no dead link."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

pytest.importorskip("myst_nb", reason='pip install -c constraints.txt -e ".[site]"')
LABS = sorted((Path(__file__).resolve().parent.parent / "labs").glob("[0-9][0-9]_*.ipynb"))
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src",
           "object": "data", "embed": "src", "use": "href"}


def build(root: Path, out: Path, builder: str) -> Path:
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-E", "-b", builder, "-c", "labs/site"]
    ended = subprocess.run([*command, "-d", str(out / "doctrees"), ".", str(out / builder)], cwd=root,
                          capture_output=True, text=True)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    return out / builder


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    return build(root, tmp_path_factory.mktemp("site"), "html")


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text("utf-8"), "html.parser")


def fetches(site: Path) -> list[str]:
    """Whatever a browser would load from elsewhere, for a page or for a style or script that some page names (reveal.js
    comes with more than are used): "file: address"."""
    wanted = []
    for page in site.rglob("*.html"):
        html = soup(page)
        wanted += [(page.name, tag.get(FETCHED[tag.name]) or "") for tag in html.find_all(list(FETCHED))]
        wanted += [(page.name, part) for tag in html.find_all(srcset=True) for part in tag["srcset"].split()]
        styles = [tag.text for tag in html("style")] + [tag["style"] for tag in html.find_all(style=True)]
        wanted += [(page.name, address) for address in in_css(" ".join(styles))]
        wanted += [(page.name, address) for address in in_script(" ".join(tag.text for tag in html("script")))]
    files = [f for kind in ("css", "js") for f in site.rglob(f"*.{kind}")]
    inside = {f: (in_css if f.suffix == ".css" else in_script)(f.read_text("utf-8")) for f in files}
    named = {Path(urlsplit(a).path).name for a in [a for _, a in wanted] + sum(inside.values(), [])}
    wanted += [(f.name, address) for f in files if f.name in named for address in inside[f]]
    return [f"{name}: {address}" for name, address in wanted if re.match(r"(https?:)?//", address)]


def in_css(text: str) -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return re.findall(r"url\(\s*[\"']?([^\"')]+)", text) + re.findall(r"@import\s+[\"']([^\"']+)", text)


def in_script(text: str) -> list[str]:
    addresses = re.findall(r"[\"'`]((?:https?:)?//[\w-]+\.[^\"'`\s]+)", text)
    return [address for address in addresses if not address.startswith("http://www.w3.org/")]  # names, not places


def dead_links(site: Path) -> list[str]:
    """Links, pictures, scripts and styles of the site whose file or anchor is not there: "page: address"."""
    dead, anchors = [], {}
    for page in site.rglob("*.html"):
        for tag in soup(page).find_all(["a", *FETCHED]):
            parts = urlsplit(tag.get(FETCHED.get(tag.name, "href")) or "")
            if parts.scheme or parts.netloc or not parts.geturl():
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if file.suffix == ".html" and file.is_file() and file not in anchors:
                anchors[file] = {t["id"] for t in soup(file).find_all(id=True)}
            if not file.is_file() or parts.fragment and unquote(parts.fragment) not in anchors.get(file, ()):
                dead.append(f"{page.name}: {parts.geturl()}")
    return dead


def test_the_site_loads_nothing_from_elsewhere(site):
    assert not fetches(site)


def test_every_link_and_anchor_leads_somewhere(site):
    assert len(list(site.rglob("*.html"))) > len(LABS) + 3
    assert not dead_links(site)


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_a_lab_is_there_with_its_outputs(path, site):
    page, cells = soup(site / "labs" / f"{path.stem}.html"), nbformat.read(path, 4).cells
    code = [c for c in cells if c.cell_type == "code"]
    outputs = [o for c in code for o in c.outputs]
    assert len(page.select("div.cell_input")) == len(code)
    assert len(page.select("div.cell_output img")) == sum("image/png" in o.get("data", {}) for o in outputs) > 0
    assert len(page.select("table.dataframe")) == sum("text/html" in o.get("data", {}) for o in outputs)
    printed = [t.text.strip() for t in page.select("div.output.stream")]
    assert printed == [o.text.strip() for o in outputs if o.output_type == "stream"]
    shown = " ".join(t.text for t in page.select("div.cell_output"))
    assert not re.search("jupyter.widget|interactive\\(|Slider\\(|Progress\\(|Figure size|<Axes", shown)
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    block, inline = re.subn(r"\$\$.+?\$\$", "", prose, flags=re.S)[::-1]
    assert len(page.select("div.math svg")) == block
    assert len(page.select("svg[role=img]")) == block + len(re.findall(r"\$.+?\$", inline, flags=re.S))


@pytest.mark.slow
def test_slides_hold_the_figures_and_load_nothing_from_elsewhere(root, tmp_path):
    slides = build(root, tmp_path, "revealjs")
    assert not fetches(slides)
    for path in LABS:
        page, cells = soup(slides / "labs" / f"{path.stem}.html"), nbformat.read(path, 4).cells
        figures = sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
        headings = re.findall(r"^#{1,3} ", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M)
        assert len(page.select("div.cell_output img")) == figures and page.select("svg[role=img]")
        assert len([s for s in page.select("section") if not s.find("section")]) == len(headings)


def test_search_and_front_page(site):
    index = (site / "searchindex.js").read_text("utf-8")
    assert all(f'"labs/{path.stem}"' in index for path in LABS) and '"shuffl' in index
    assert (site / "index.html").read_text("utf-8") == (site / "README.html").read_text("utf-8")
    linked = {a.get("href") for a in soup(site / "index.html").find_all("a")}
    assert {f"labs/{p.stem}.html" for p in LABS} | {"labs/ADAPTING.html", "data/README.html"} <= linked


@pytest.mark.parametrize("fault, line", [
    ("loads", '<script src="https://cdn.example/x.js"></script>'), ("loads", '<link href="//fonts.example/a" rel="x">'),
    ("loads", '<style>@import "https://a.example/b.css";</style>'), ("loads", '<p style="background: url(http://a.b/c)">'),
    ("loads", '<script>import("https://a.example/m.js")</script>'), ("loads", '<img srcset="//a.example/i.png 2x">'),
    ("dead", '<a href="gone.html">'), ("dead", '<a href="#nowhere">'), ("dead", '<img src="gone.png">'),
    ("loads", '<link rel="stylesheet" href="used.css?v=1">'), ("", '<a href="a.html#here">'),
    ("", '<a href="https://example.org">'), ("", '<script>let x = "a // b"</script>')])
def test_the_checks_themselves_notice_faults(fault, line, tmp_path):
    for name in ("used.css", "unused.css"):
        (tmp_path / name).write_text("@import 'https://fonts.example/a.css';", "utf-8")
    (tmp_path / "a.html").write_text(f'<html><body id="here">{line}</body></html>', "utf-8")
    assert (len(fetches(tmp_path)), len(dead_links(tmp_path))) == (int(fault == "loads"), int(fault == "dead"))
