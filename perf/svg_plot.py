"""Plots as SVG text, by hand: grouped bars with spreads and marks, and lines over a logarithmic axis."""

import math
from html import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 74, 52
PALETTE = ("#1f6f8b", "#e07a1f", "#5b8c3a", "#8a4f9e", "#b03a48", "#6b6b6b")
INK, FAINT = "#222222", "#d9d9d9"
FONT = 'font-family="Helvetica, Arial, DejaVu Sans, sans-serif"'


def number(value):
    """A short number: 0, 0.25, 3.1, 42, 1500."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def size(nbytes):
    """32 B, 4 KiB, 256 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:g} {unit}"
        nbytes /= 1024
    return f"{nbytes:g} GiB"


def ticks_to(top, wanted=7):
    """Round steps from 0 to at least `top`."""
    if top <= 0:
        return [0, 1]
    step = 10 ** math.floor(math.log10(top / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if top / (step * factor) <= wanted)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


class Canvas:
    def __init__(self, title, subtitle, unit):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        ]
        self.text(LEFT, 24, title, size=16, weight="bold")
        self.text(LEFT, 42, subtitle, size=12, fill="#555555")
        self.text(14, TOP + self.plot_height() / 2, unit, anchor="middle", turn=-90, size=12)

    @staticmethod
    def plot_height():
        return HEIGHT - TOP - BOTTOM

    @staticmethod
    def plot_width():
        return WIDTH - LEFT - RIGHT

    def text(self, x, y, words, *, size=12, anchor="start", fill=INK, weight="normal", turn=0):
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}" font-weight="{weight}" fill="{fill}" '
            f'text-anchor="{anchor}"{turned}>{escape(str(words))}</text>'
        )

    def line(self, x1, y1, x2, y2, stroke=INK, width=1.0, dash=""):
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
            f'stroke-width="{width}"{dashed}/>'
        )

    def bar(self, x, y, width, height, fill, hint):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}" fill="{fill}" '
            f'rx="1.5"><title>{escape(hint)}</title></rect>'
        )

    def legend(self, names, mark=None):
        x = LEFT
        for i, name in enumerate(names):
            self.parts.append(
                f'<rect x="{x:.1f}" y="52" width="11" height="11" fill="{PALETTE[i % len(PALETTE)]}" rx="1.5"/>'
            )
            self.text(x + 16, 62, name)
            x += 16 + 7 * len(name) + 18
        if mark:
            self.line(x, 58, x + 16, 58, width=2)
            self.text(x + 22, 62, mark)

    def scale(self, ticks):
        """Draws the y axis, linear from 0; returns the function from values to heights on the page."""
        top = ticks[-1]
        bottom = HEIGHT - BOTTOM

        def place(value):
            return bottom - self.plot_height() * value / top

        for tick in ticks:
            self.line(LEFT, place(tick), WIDTH - RIGHT, place(tick), stroke=INK if tick == 0 else FAINT)
            self.text(LEFT - 8, place(tick) + 4, number(tick), anchor="end", size=11)
        return place

    def done(self):
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def bars(title, subtitle, unit, groups, series, mark=None):
    """groups: [(name, {series name: value or (value, low, high)}, value of the mark or None)]; series: their names in order.

    A mark is a line across a group: the limit that its bars stand beside.
    """
    canvas = Canvas(title, subtitle, unit)
    canvas.legend(series, mark if any(group[2] for group in groups) else None)

    def triple(value):
        return value if isinstance(value, tuple) else (value, value, value)

    highest = max(
        [triple(value)[2] for _, values, _ in groups for value in values.values()]
        + [group[2] or 0 for group in groups]
        + [0]
    )
    place = canvas.scale(ticks_to(highest * 1.06))
    room = canvas.plot_width() / max(len(groups), 1)
    width = min(room * 0.8 / max(len(series), 1), 64)
    for g, (name, values, limit) in enumerate(groups):
        middle = LEFT + room * (g + 0.5)
        left = middle - width * len(series) / 2
        for s, which in enumerate(series):
            if which not in values:
                continue
            value, low, high = triple(values[which])
            x = left + s * width
            canvas.bar(
                x + 1,
                place(value),
                width - 2,
                place(0) - place(value),
                PALETTE[s % len(PALETTE)],
                f"{name}, {which}: {number(value)} {unit}",
            )
            if low != high:
                centre = x + width / 2
                canvas.line(centre, place(low), centre, place(high), width=1.3)
                for end in (low, high):
                    canvas.line(centre - 4, place(end), centre + 4, place(end), width=1.3)
            above = min(place(high), place(value)) - 5
            if limit and above - 13 < place(limit) < above + 6:
                above = place(limit) - 5
            canvas.text(x + width / 2, above, number(value), anchor="middle", size=11)
        if limit:
            canvas.line(left - 6, place(limit), left + width * len(series) + 6, place(limit), width=2)
        for row, words in enumerate(name.split("\n")):
            canvas.text(middle, HEIGHT - BOTTOM + 18 + 14 * row, words, anchor="middle")
    return canvas.done()


def lines(title, subtitle, unit, xs, series, x_name, x_text=size):
    """series: {name: [value or None for each x]}; the x axis is logarithmic."""
    canvas = Canvas(title, subtitle, unit)
    canvas.legend(list(series))
    highest = max([value for values in series.values() for value in values if value is not None] + [0])
    place = canvas.scale(ticks_to(highest * 1.06))
    low, high = math.log2(xs[0]), math.log2(xs[-1])

    def across(x):
        return LEFT + 14 + (canvas.plot_width() - 28) * ((math.log2(x) - low) / (high - low) if high > low else 0.5)

    for x in xs:
        canvas.line(across(x), HEIGHT - BOTTOM, across(x), HEIGHT - BOTTOM + 4)
        canvas.text(across(x), HEIGHT - BOTTOM + 18, x_text(x), anchor="middle", size=11)
    canvas.text(LEFT + canvas.plot_width() / 2, HEIGHT - 12, x_name, anchor="middle")
    for s, (name, values) in enumerate(series.items()):
        colour = PALETTE[s % len(PALETTE)]
        points = [(across(x), place(value)) for x, value in zip(xs, values) if value is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        canvas.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        for (x, y), value in zip(points, [value for value in values if value is not None]):
            canvas.parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"><title>'
                f'{escape(f"{name}: {number(value)} {unit}")}</title></circle>'
            )
    return canvas.done()


def against(title, subtitle, unit, series, band, names):
    """Points in a square of two logarithmic axes, with the diagonal and a band of +-band beside it.

    series: {name: [(x, y, hint)]}; names: of the two axes.
    """
    canvas = Canvas(title, subtitle, f"{names[1]} ({unit})")
    canvas.legend(list(series))
    values = [value for points in series.values() for x, y, _ in points for value in (x, y)]
    low, high = math.floor(math.log10(min(values)) * 2) / 2, math.ceil(math.log10(max(values)) * 2) / 2
    span = max(high - low, 0.5)

    def across(x):
        return LEFT + canvas.plot_width() * (math.log10(x) - low) / span

    def up(y):
        return HEIGHT - BOTTOM - canvas.plot_height() * (math.log10(y) - low) / span

    first, last = 10**low, 10 ** (low + span)
    edges = ((first, first), (last / (1 + band), last), (last, last), (last, last * (1 - band)), (first / (1 - band), first))
    canvas.parts.append(
        '<polygon points="' + " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in edges) + '" fill="#e8eef1"/>'
    )
    for power in range(math.floor(low), math.ceil(high) + 1):
        for step in (1, 2, 5):
            value = step * 10**power
            if not first <= value <= last:
                continue
            canvas.line(LEFT, up(value), WIDTH - RIGHT, up(value), stroke=FAINT)
            canvas.text(LEFT - 8, up(value) + 4, number(value), anchor="end", size=11)
            canvas.text(across(value), HEIGHT - BOTTOM + 18, number(value), anchor="middle", size=11)
    canvas.line(across(first), up(first), across(last), up(last), width=1.2, dash="5 4")
    canvas.text(LEFT + canvas.plot_width() / 2, HEIGHT - 12, f"{names[0]} ({unit})", anchor="middle")
    for s, (name, points) in enumerate(series.items()):
        for x, y, hint in points:
            canvas.parts.append(
                f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="4" fill="{PALETTE[s % len(PALETTE)]}" '
                f'fill-opacity="0.8"><title>{escape(f"{name}, {hint}: {number(x)}, {number(y)} {unit}")}</title></circle>'
            )
    return canvas.done()


def scatter(title, subtitle, unit, series, x_name, *, x_text=size, level=None):
    """series: {name: [(x, y, hint)]}, joined in the order of x; both axes are logarithmic. level: (name, y), a line across."""
    canvas = Canvas(title, subtitle, unit)
    canvas.legend(list(series), level[0] if level else None)
    points = [point for values in series.values() for point in values]
    ys = [y for _, y, _ in points] + ([level[1]] if level else [])

    def decades(values):
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return low, max(high, low + 1)

    (left, right), (bottom, top) = decades([x for x, _, _ in points]), decades(ys)

    def across(x):
        return LEFT + canvas.plot_width() * (math.log10(x) - left) / (right - left)

    def place(y):
        return HEIGHT - BOTTOM - canvas.plot_height() * (math.log10(y) - bottom) / (top - bottom)

    for power in range(bottom, top + 1):
        canvas.line(LEFT, place(10**power), WIDTH - RIGHT, place(10**power), stroke=INK if power == bottom else FAINT)
        canvas.text(LEFT - 8, place(10**power) + 4, f"{10.0**power:g}", anchor="end", size=11)
    for power in range(left, right + 1):
        canvas.line(across(10**power), HEIGHT - BOTTOM, across(10**power), HEIGHT - BOTTOM + 4)
        canvas.text(across(10**power), HEIGHT - BOTTOM + 18, x_text(10**power), anchor="middle", size=11)
    canvas.text(LEFT + canvas.plot_width() / 2, HEIGHT - 12, x_name, anchor="middle")
    if level:
        canvas.line(LEFT, place(level[1]), WIDTH - RIGHT, place(level[1]), width=1.4, dash="5 4")
    for s, values in enumerate(series.values()):
        colour = PALETTE[s % len(PALETTE)]
        ordered = sorted((across(x), place(y), hint) for x, y, hint in values)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in ordered)
        canvas.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        for x, y, hint in ordered:
            canvas.parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(hint)}</title></circle>'
            )
    return canvas.done()
