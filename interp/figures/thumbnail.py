"""A few kilobytes of SVG for a notebook cell: enough to see what a result says, small enough to commit nothing large.

Drawn by hand, not by plotly, so that showing a result needs neither a browser nor the 5 MB of plotly.js. Which numbers are shown is
decided by the result itself: `Result.thumbnail()` gives a labelled array of one axis (a line) or two (a grid).
"""

import base64
import struct
import zlib
from html import escape

import numpy as np
import xarray as xr

WIDTH, HEIGHT, LEFT, BOTTOM = 300, 130, 34, 22


def svg(values: xr.DataArray, *, effect: bool = False) -> str:
    """One- or two-axis labelled array as a small SVG: a line, or a grid (first axis downwards)."""
    data = np.asarray(values.values, dtype=np.float64)
    body = _line(data) if data.ndim == 1 else _grid(data, effect)
    x_name, y_name = (str(values.dims[-1]), str(values.name or "") if data.ndim == 1 else str(values.dims[0]))
    text = "font-family='sans-serif' font-size='9' fill='#8b929a'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' role='img'>{body}"
        f"<text x='{WIDTH / 2}' y='{HEIGHT - 5}' text-anchor='middle' {text}>{escape(x_name)}</text>"
        f"<text x='10' y='{HEIGHT / 2}' text-anchor='middle' transform='rotate(-90 10 {HEIGHT / 2})' {text}>{escape(y_name)}</text>"
        "</svg>"
    )


def _line(data: np.ndarray) -> str:
    wide = -(-len(data) // (WIDTH - LEFT))  # a point a pixel
    if wide > 1:
        data = np.array([_mean(data[start : start + wide]) for start in range(0, len(data), wide)])
    finite = data[np.isfinite(data)]
    if not finite.size:
        return ""
    low, high = min(0.0, float(finite.min())), float(finite.max())
    span = (high - low) or 1.0
    step = (WIDTH - LEFT - 6) / max(len(data) - 1, 1)
    points = [
        f"{LEFT + i * step:.1f},{(HEIGHT - BOTTOM) - (value - low) / span * (HEIGHT - BOTTOM - 8):.1f}"
        for i, value in enumerate(data)
        if np.isfinite(value)
    ]
    base = HEIGHT - BOTTOM
    axis = f"<path d='M{LEFT} 6V{base}H{WIDTH - 6}' fill='none' stroke='#d0d4d9'/>"
    return axis + f"<polyline points='{' '.join(points)}' fill='none' stroke='#0072B2' stroke-width='1.8'/>"


def _grid(data: np.ndarray, effect: bool) -> str:
    keep = [np.unique(np.linspace(0, n - 1, min(n, 128)).astype(int)) for n in data.shape]
    data = data[np.ix_(*keep)]
    top = float(np.nanmax(np.abs(data))) if np.isfinite(data).any() else 1.0
    picture = base64.b64encode(_png(_shade(data / (top or 1.0), effect))).decode()
    return (
        f"<image x='{LEFT}' y='6' width='{WIDTH - LEFT - 6}' height='{HEIGHT - BOTTOM - 6}' preserveAspectRatio='none' "
        f"style='image-rendering:pixelated' href='data:image/png;base64,{picture}'/>"
    )


def _shade(share: np.ndarray, effect: bool) -> np.ndarray:
    """Colours [y, x, 3] of shares in [-1, 1]: white at zero, blue upwards, or red upwards and blue downwards for effects."""
    share = np.clip(np.nan_to_num(share), -1, 1)[..., None]
    blue, red = np.array([33, 102, 172]), np.array([178, 24, 43])
    target = np.where(share > 0, red, blue) if effect else blue
    return np.round(255 + (target - 255) * np.abs(share)).astype(np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    """RGB pixels [y, x, 3] as a PNG file."""
    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
