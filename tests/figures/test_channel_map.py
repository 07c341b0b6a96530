"""The map that one can click through: what it holds, what it leaves out aloud, and what really happens on a click."""

import base64
import json
import re
import subprocess

import numpy as np
import pytest

import interp
from interp.cli import running
from interp.core.errors import BadInput
from interp.figures import channel_map, export

from . import channel_fakes as fakes

needs_browser = pytest.mark.skipif(export.browser() is None, reason="no Chromium on this machine")


def content(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def numbers(spec):
    codes = np.frombuffer(base64.b64decode(spec["data"]), "<u1" if spec["bytes"] == 1 else "<u2").astype(float)
    none = 2.0 ** (8 * spec["bytes"]) - 1
    share = codes / (none - 1)
    values = (
        codes
        if spec.get("whole")
        else spec["low"] + (share**2 if spec["root"] else share) * (spec["high"] - spec["low"])
    )
    return np.where(codes == none, np.nan, values)


def pairs(values):
    """In the page's order, one by one."""
    kinds, layers, heads = values.shape[:3]
    return np.array([
        values[k, layer, head, to, other] for k in range(kinds) for layer in range(layers) for head in range(heads)
        for to in range(layer + 1, layers) for other in range(heads)
    ])  # fmt: skip


def test_the_page_is_alone_and_small():
    result = fakes.channels()
    page = channel_map.page(result)
    assert len(page) < 150_000 and not re.findall(r"(?:src|href)=[\"']?https?:", page) and "@import" not in page
    assert result.manifest.line in page and page == channel_map.page(result)


def test_numbers_arrive():
    result = fakes.channels()
    data, held = result.data, content(channel_map.page(result))
    for name, variable, near in (
        ("best", "best", 1e-5),
        ("total", "total", 1e-5),
        ("z", "best_z", 2e-4),
        ("index", "best_component", 0),
    ):
        assert numbers(held[name]) == pytest.approx(pairs(data[variable].values).astype(float), abs=near)
    score = data["score"].transpose("kind", "layer", "head", "reader_layer", "reader_head", "component").values
    assert held["kept"] == 8 and numbers(held["score"]).reshape(-1, 8) == pytest.approx(pairs(score), abs=1e-5)
    assert numbers(held["value"]) == pytest.approx(data["value"].values.ravel(), abs=1e-4)
    kind, writer, component, reader, value = held["top"][0]
    assert (kind, writer, component, reader) == (0, 6, 1, 13) and value == 0.5  # 1.2.1 into queries of 3.1


def test_what_a_larger_model_leaves_out_is_said(monkeypatch):
    result = fakes.channels()
    pair_count = pairs(result.data["best"].values).size
    monkeypatch.setattr(channel_map, "EXACT", 10)
    monkeypatch.setattr(channel_map, "MOST_SCORES", pair_count * 4)
    held = content(channel_map.page(result))
    assert "total" not in held and "left out" in held["note"] and "1 %" in held["note"]
    best = pairs(result.data["best"].values)
    assert numbers(held["best"]) == pytest.approx(best, rel=0.02)
    score = result.data["score"].transpose("kind", "layer", "head", "reader_layer", "reader_head", "component").values
    every, kept, place = (
        pairs(score),
        numbers(held["score"]).reshape(-1, 4),
        numbers(held["place"]).reshape(-1, 4).astype(int),
    )
    assert kept == pytest.approx(-np.sort(-every, axis=1)[:, :4], rel=0.03)
    assert np.take_along_axis(every, place, 1) == pytest.approx(-np.sort(-every, axis=1)[:, :4])
    monkeypatch.setattr(channel_map, "MOST_SCORES", pair_count * 3)
    held = content(channel_map.page(result))
    assert held["kept"] == 0 and "score" not in held and "single components are left out" in held["note"]
    assert "not in this result" in content(channel_map.page(fakes.channels(scores=False)))["note"]


def test_gpt2_takes_a_few_megabytes():
    page = channel_map.page(fakes.channels(12, 12, 64, width=768))
    assert len(page) < 3_000_000 and content(page)["kept"] == 64


def test_names_cannot_break_out_of_the_page():
    result = fakes.channels()
    result.manifest.model["name"] = "</script><b>x"
    page = channel_map.page(result, {"1.2.1": [("writes", ["</script>", "red"])]})
    assert page.count("</script>") == 2 and "<b>x" not in page
    assert content(page)["words"]["1.2.1"] == [["writes", ["</script>", "red"]]]
    with pytest.raises(BadInput, match="ComponentWords"):
        channel_map.page(result, 3)


def test_a_result_from_disk_is_drawn_as_its_page(tmp_path):
    result = fakes.channels()
    result.save(tmp_path / "channels")
    again = interp.open(tmp_path / "channels")
    path = tmp_path / "map.html"
    running.draw(again, path, paper=False)  # what --figure map.html does
    assert path.read_text(encoding="utf-8") == channel_map.page(result)
    assert "plotly" in export.draw(again, tmp_path / "reader.html", by="reader").read_text(
        encoding="utf-8"
    )  # a figure was asked for
    assert export.draw(again, tmp_path / "map.json").read_text().startswith("{")
    for name in ("map.png", "no/map.html"):
        with pytest.raises(BadInput, match=r"\.html|Make it first"):
            channel_map.save(result, tmp_path / name)
    assert not list(tmp_path.glob(".*partial"))


STEPS = """<script>
const seen = [], note = () => seen.push([location.hash, document.querySelector("#side h2").textContent.replace(/\\s+/g, " ").trim(),
  (document.querySelector("#chosen") || {textContent: ""}).textContent.split(":")[0].trim(), S.c, $("back").disabled].join("|"));
const tap = (node, at = {}) => node.dispatchEvent(new MouseEvent("click", {bubbles: true, ...at}));
const cellAt = (w, r) => { const box = canvas.getBoundingClientRect(), zoom = box.width / (side + left + 4);
  return {clientX: box.left + (left + (r + .5) * cell) * zoom, clientY: box.top + (above + (w + .5) * cell) * zoom}; };
const steps = [
  () => tap(canvas, cellAt(3, 8)),                             // 0.3 into 2.0
  () => tap(document.querySelector('[data-c="2"]')),           // its component 2
  () => tap(document.querySelector('[data-r="13"]')),          // read by 3.1
  () => tap(document.querySelector('#kinds button:nth-child(2)')),
  () => tap(canvas, cellAt(9, 2)),                             // the wrong way round: nothing
  () => tap($("back")),
];
note(); let step = 0;
const next = () => { if (step < steps.length) { steps[step++](); setTimeout(() => { note(); next(); }, 60); }
  else { const out = document.createElement("pre"); out.id = "seen"; out.textContent = seen.join("\\n"); document.body.append(out); } };
setTimeout(next, 60);
</script></body>"""


@needs_browser
def test_clicks_show_the_pair_the_component_its_readers_and_the_way_back(tmp_path):
    path = tmp_path / "map.html"
    path.write_text(channel_map.page(fakes.channels()).replace("</body>", STEPS), encoding="utf-8")
    command = [
        export.browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:]
    assert found[1].splitlines() == [
        "|Click a pair of heads||-1|true",
        "#Q/0.3/2.0|0.3 → 2.0 into query|Component 0.3.4|4|false",
        "#Q/0.3/2.0/2|0.3 → 2.0 into query|Component 0.3.2|2|false",
        "#Q/0.3/3.1/2|0.3 → 3.1 into query|Component 0.3.2|2|false",
        found[1].splitlines()[4],
        found[1].splitlines()[4],
        "#Q/0.3/3.1/2|0.3 → 3.1 into query|Component 0.3.2|2|false",
    ]
    assert found[1].splitlines()[4].startswith("#K/0.3/3.1|0.3 → 3.1 into key|")
