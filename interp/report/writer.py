"""From sections to a folder: one self-contained page, figures, tables, saved results, a manifest. Written aside, then renamed.

index.html        opens offline; every figure interactive
card.jsonl        one number a line (see `rows`)
figures/          NAME.html, and NAME.svg and NAME.pdf in the paper theme where a Chromium is found
tables/           card and every result's long table, as CSV and parquet
results/          every result, for `interp.open`
manifest.json     what produced all of it
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader

from interp.core.progress import track
from interp.figures import depth, export

from .rows import stamp, table
from .sections import Section, gauges

if TYPE_CHECKING:
    from interp.core.lm import LM

    from .card import Report


def write(report: "Report", lm: "LM", output: Path, *, store: Any = None, command: str = "") -> Path:
    """Run the battery and write it; an existing report at `output` stays until the new one is whole."""
    fidelity = lm.fidelity()
    sections = report.run(lm, store)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.absolute().parent))
    try:
        _fill(aside, report, lm, sections, fidelity, command or f"interp report {lm.spec.name} -o {output.name}")
        aside.chmod(0o755)
        if output.exists():
            old = aside.with_name(aside.name + "-old")
            output.rename(old)
            aside.rename(output)
            shutil.rmtree(old)
        else:
            aside.rename(output)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return output / "index.html"


def _fill(folder: Path, report: "Report", lm: "LM", sections: list[Section], fidelity: Any, command: str) -> None:
    for name in ("figures", "tables", "results"):
        (folder / name).mkdir()
    pictures = _figures(folder / "figures", sections, static=report.static)
    manifest = _manifest(report, lm, sections, fidelity)
    _tables(folder, sections, manifest)
    for section in sections:
        if section.result is not None:
            section.result.save(folder / "results" / section.key)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    page = Environment(loader=PackageLoader("interp.report", "."), autoescape=True).get_template("page.html")
    shown = [
        {
            "key": section.key, "title": section.title, "question": section.question, "left_out": section.left_out,
            "table": section.table, "pictures": pictures.get(section.key, []), "files": _links(folder, section),
        }
        for section in [*_depth_section(sections), *sections]
    ]  # fmt: skip
    html = page.render(
        title=lm.spec.name, spec=lm.spec.short, fidelity=fidelity.line, sections=shown, gauges=gauges(sections),
        plotly_js=export.plotly_js(), provenance=manifest["line"], command=command,
    )  # fmt: skip
    (folder / "index.html").write_text(html, encoding="utf-8")


def _depth_section(sections: list[Section]) -> list[Section]:
    results = {section.key: section.result for section in sections if section.result is not None}
    question = "Every layer-wise measure on one axis: where along the depth things happen."
    return [Section("depth", "Depth strip", question)] if depth.strips(results) else []


def _figures(folder: Path, sections: list[Section], *, static: bool) -> dict[str, list[tuple[str, str]]]:
    """Draw and export every figure; fragments for the page, by section."""
    results = {section.key: section.result for section in sections if section.result is not None}
    drawn: list[tuple[str, str, go.Figure, go.Figure]] = []
    if depth.strips(results):
        drawn.append(("depth", "depth", depth.plot(results), depth.plot(results, theme="paper")))
    for section in sections:
        for name, options in section.figures.items():
            assert section.result is not None
            drawn.append(
                (section.key, name, section.result.plot(**options), section.result.plot(theme="paper", **options))
            )
    fragments: dict[str, list[tuple[str, str]]] = {}
    draw_static = static and export.browser() is not None
    for key, name, screen, paper in track(drawn, "figures"):
        fragments.setdefault(key, []).append((name, export.fragment(screen, f"figure-{name}")))
        export.save(screen, folder / f"{name}.html")
        for kind in export.VECTOR if draw_static else ():
            export.save(paper, folder / f"{name}.{kind}")
    return fragments


def _tables(folder: Path, sections: list[Section], manifest: dict[str, Any]) -> None:
    rows = [row for section in sections if section.result is not None for row in stamp(section.rows, section.result)]
    model = manifest["model"]
    common = {
        "model": model["name"], "revision": model["revision"], "weights": model["fingerprint"][:16], "dtype": model["dtype"],
        "seed": manifest["seed"], "code": manifest["code"],
    }  # fmt: skip
    card = table(rows, common)
    card.to_json(folder / "card.jsonl", orient="records", lines=True)
    frames = {"card": card} | {
        section.key: section.result.to_frame() for section in sections if section.result is not None
    }
    for name, frame in frames.items():
        frame.to_csv(folder / "tables" / f"{name}.csv", index=False)
        frame.to_parquet(folder / "tables" / f"{name}.parquet", index=False)


def _manifest(report: "Report", lm: "LM", sections: list[Section], fidelity: Any) -> dict[str, Any]:
    from interp.core.manifest import Manifest

    own = Manifest.of(
        lm,
        analysis="Report",
        config={"max_facts": report.max_facts, "max_tokens": report.max_tokens},
        seeds={"seed": report.seed},
    )
    parts = {section.key: section.result.manifest.to_dict() for section in sections if section.result is not None}
    hashes = {section.key: section.result.manifest.hash for section in sections if section.result is not None}
    return own.to_dict() | {
        "line": own.line, "seed": report.seed, "spec": lm.spec.to_dict(), "fidelity": fidelity.to_dict(), "results": hashes,
        "analyses": parts, "left_out": {section.key: section.left_out for section in sections if section.left_out},
    }  # fmt: skip


def _links(folder: Path, section: Section) -> list[tuple[str, str]]:
    files = [f"figures/{name}.{kind}" for name in [*section.figures, *([section.key] if section.key == "depth" else [])]
             for kind in ("html", "svg", "pdf")]  # fmt: skip
    files += [f"tables/{section.key}.{kind}" for kind in ("csv", "parquet")]
    return [(Path(name).name, name) for name in files if (folder / name).is_file()]
