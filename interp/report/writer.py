"""From sections to a folder: one self-contained page, figures, tables, saved results, a manifest. Written aside, then renamed.

index.html        opens offline; every figure interactive
card.jsonl        one number a line (see `rows`)
figures/          NAME.html, and NAME.svg and NAME.pdf in the paper theme where a Chromium is found
tables/           the card, every result's long table and the tensors, as CSV and parquet
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

from interp.core.manifest import Manifest
from interp.core.progress import track
from interp.figures import depth, export

from .gauges import gauges
from .identity import identity, tensor_table
from .rows import stamp, table
from .sections import Section

if TYPE_CHECKING:
    import pandas as pd

    from interp.core.lm import LM

    from .card import Report

CSV_ROWS = 200_000
"""Tables longer than this come as parquet only."""
DEPTH = (
    "Every layer-wise measure over one depth axis: where along the depth things happen. Rows have their own scales and units; what is "
    "aligned is depth. Dots are peaks, shades 95 % intervals, the dotted line chance."
)


def write(report: "Report", lm: "LM", output: Path, *, store: Any = None, command: str = "") -> Path:
    """Run the battery and write it; an existing report at `output` stays until the new one is whole."""
    sections = report.run(lm, store)
    sections.insert(0, identity(lm, lm.fidelity()))
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.absolute().parent))
    try:
        _fill(aside, report, lm, sections, command or f"interp report {lm.spec.name} -o {output.name}")
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


def _fill(folder: Path, report: "Report", lm: "LM", sections: list[Section], command: str) -> None:
    for name in ("figures", "tables", "results"):
        (folder / name).mkdir()
    manifest = _manifest(report, lm, sections)
    pictures = _figures(folder / "figures", sections, static=report.static)
    _tables(folder, lm, sections, manifest)
    for section in sections:
        if section.result is not None:
            section.result.save(folder / "results" / section.key)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    strip = [Section("depth", "Depth strip", DEPTH)] if "depth" in pictures else []
    shown = [
        {"section": section, "pictures": pictures.get(section.key, []), "files": _links(folder, section)}
        for section in [sections[0], *strip, *sections[1:]]
    ]
    static = "" if not report.static or export.browser() else "No Chromium was found, so figures are HTML only."
    page = Environment(loader=PackageLoader("interp.report", "."), autoescape=True).get_template("page.html")
    html = page.render(
        title=lm.spec.name, spec=lm.spec.short, shown=shown, gauges=gauges(sections), plotly_js=export.plotly_js(), note=static,
        provenance=manifest["line"], started=manifest["started"], command=command,
    )  # fmt: skip
    (folder / "index.html").write_text(html, encoding="utf-8")


def _figures(folder: Path, sections: list[Section], *, static: bool) -> dict[str, list[str]]:
    """Draw and export every figure; fragments for the page, by section."""
    results = {section.key: section.result for section in sections if section.result is not None}
    drawn: list[tuple[str, str, go.Figure, go.Figure]] = []
    if depth.strips(results):
        drawn.append(("depth", "depth", depth.plot(results), depth.plot(results, theme="paper")))
    for section in sections:
        for name, options in section.figures.items():
            assert section.result is not None
            both = (section.result.plot(theme=theme, **options) for theme in ("screen", "paper"))
            drawn.append((section.key, name, *both))  # type: ignore[arg-type]
    fragments: dict[str, list[str]] = {}
    kinds = export.VECTOR if static and export.browser() is not None else ()
    for key, name, screen, paper in track(drawn, "figures"):
        fragments.setdefault(key, []).append(export.fragment(screen, f"figure-{name}"))
        export.save(screen, folder / f"{name}.html")
        for kind in kinds:
            export.save(paper, folder / f"{name}.{kind}")
    return fragments


def _tables(folder: Path, lm: "LM", sections: list[Section], manifest: dict[str, Any]) -> None:
    rows = [
        row
        for section in sections
        for row in (stamp(section.rows, section.result) if section.result is not None else section.rows)
    ]
    model = manifest["model"]
    common = {
        "model": model["name"], "revision": model["revision"], "weights": model["fingerprint"][:16], "dtype": model["dtype"],
        "seed": manifest["seed"], "code": manifest["code"],
    }  # fmt: skip
    card = table(rows, common)
    card.to_json(folder / "card.jsonl", orient="records", lines=True, force_ascii=False)
    frames = {"card": card, "identity": tensor_table(lm)}
    frames |= {section.key: section.result.to_frame() for section in sections if section.result is not None}
    for name, frame in frames.items():
        _save(frame, folder / "tables" / name)


def _save(frame: "pd.DataFrame", path: Path) -> None:
    frame.to_parquet(path.with_suffix(".parquet"), index=False)
    if len(frame) <= CSV_ROWS:
        frame.to_csv(path.with_suffix(".csv"), index=False)


def _manifest(report: "Report", lm: "LM", sections: list[Section]) -> dict[str, Any]:
    results = {section.key: section.result for section in sections if section.result is not None}
    own = Manifest.of(
        lm,
        analysis="Report",
        config={"max_facts": report.max_facts, "max_tokens": report.max_tokens},
        inputs={key: result.manifest.hash for key, result in results.items()},
        seeds={"seed": report.seed},
    )
    return own.to_dict() | {
        "line": own.line, "hash": own.hash, "seed": report.seed, "spec": lm.spec.to_dict(), "fidelity": lm.fidelity().to_dict(),
        "results": {key: result.manifest.hash for key, result in results.items()},
        "analyses": {key: result.manifest.to_dict() for key, result in results.items()},
        "left_out": {section.key: section.left_out for section in sections if section.left_out},
    }  # fmt: skip


def _links(folder: Path, section: Section) -> list[tuple[str, str]]:
    names = [*section.figures, *(["depth"] if section.key == "depth" else [])]
    files = [f"figures/{name}.{kind}" for name in names for kind in ("html", "svg", "pdf")]
    files += [f"tables/{section.key}.{kind}" for kind in ("csv", "parquet")]
    return [(Path(name).name, name) for name in files if (folder / name).is_file()]
