#!/usr/bin/env python3
"""Text of many scripts made by rule, for tokenizers: corpus.py OUT writes 1.2 MB, the same on every machine. It holds no U+2581 (which
SentencePiece cannot give back), no text of a special token, and no character younger than Unicode 9."""
import sys

RANGES = {  # of letters, with the marks that stand between them
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0x61, 0x7A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x17F)],
    "greek": [(0x391, 0x3A1), (0x3A3, 0x3A9), (0x3B1, 0x3C9)],
    "cyrillic": [(0x410, 0x44F), (0x450, 0x45F)],
    "armenian": [(0x531, 0x556), (0x561, 0x587)],
    "hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5B9)],
    "arabic": [(0x621, 0x63A), (0x641, 0x64A), (0x64B, 0x652)],
    "devanagari": [(0x905, 0x939), (0x93E, 0x94D)],
    "bengali": [(0x985, 0x98C), (0x995, 0x9A8), (0x9BE, 0x9C4), (0x9CD, 0x9CD)],
    "tamil": [(0xB85, 0xB8A), (0xB95, 0xB95), (0xBAE, 0xBB9), (0xBBE, 0xBC2)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "georgian": [(0x10D0, 0x10F0)],
    "hangul": [(0xAC00, 0xD7A3)],
    "jamo": [(0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2)],
    "hiragana": [(0x3041, 0x3096)],
    "katakana": [(0x30A1, 0x30FA)],
    "han": [(0x4E00, 0x9FA5), (0x3400, 0x3450), (0x20000, 0x20050)],
    "ethiopic": [(0x1200, 0x1248)],
    "khmer": [(0x1780, 0x17B3), (0x17B6, 0x17D1)],
}
DIGITS = [0x30, 0x30, 0x30, 0x30, 0x660, 0x966, 0xFF10, 0x1D7CE]
SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u180e\u200b\ufeff"
MARKS = "\u0300\u0301\u0308\u0327\u0323\u0331\u05bf\u064b\u0e38\u302a\u20d0"
SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00a1\u00ab\u00bb\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u20ac\u2190\u2211\u2260\u3001\u3002\uff01\uff1f"
ODD = "\u212b\u2126\ufb01\ufb03\u00b2\u00bd\u2160\u2460\u0130\u0131\u017f\u1e9e\u01c5\u02bc\u2603\ufe0f\ue000\ufffd\x00\x01\x1f\x7f\x9f\U0010fffd\U00010348\U0001d54f"
EMOJI = ["\U0001f642", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "1\ufe0f\u20e3"]
ONSETS = "b c d f g h j k l m n p r s t v w st tr ch sh th pl br".split()
RIMES = "a e i o u ai ee ou ea an en in on un ar er or al el ing ation ed ly".split()
SMALL = "the and of to in is that for it with as was on be at by this have from or had not are but what all were when we".split()
TAILS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "\u2019s", "'x", "''", "'"]


class Rule:
    """A linear congruential generator and what is made with it."""

    def __init__(self, seed):
        self.state = seed

    def below(self, count):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % count

    def one(self, items):
        return items[self.below(len(items))]

    def word(self):
        if self.below(3) == 0:
            return self.one(SMALL)
        text = "".join(self.one(ONSETS) + self.one(RIMES) for _ in range(1 + self.below(4)))
        return [text, text, text.capitalize(), text.upper(), text + self.one(RIMES).capitalize()][self.below(5)]

    def letters(self, script, count):
        ranges = RANGES[script]
        points = []
        for _ in range(count):
            low, high = self.one(ranges)
            points.append(chr(low + self.below(high - low + 1)))
        return "".join(points)

    def number(self):
        zero = self.one(DIGITS)
        digits = "".join(chr(zero + self.below(10)) for _ in range(1 + self.below(9)))
        return [digits, digits, digits + "." + digits[:2], digits + "," + digits[:3], "0x" + digits, "v" + digits][self.below(6)]

    def prose(self):
        words = []
        for _ in range(4 + self.below(16)):
            kind = self.below(12)
            word = self.number() if kind == 0 else self.word()
            words.append(word + (self.one(TAILS) if kind == 1 else self.one(SIGNS) if kind == 2 else ""))
        return " ".join(words) + self.one([".", "!", "?", "...", ".\n", "\n\n"])

    def script(self):
        name = self.one(sorted(RANGES))
        joint = "" if name in ("han", "hiragana", "katakana", "thai", "khmer") else " "
        return joint.join(self.letters(name, 1 + self.below(9)) for _ in range(3 + self.below(10))) + self.one(["\u3002", ". ", "\n", " "])

    def code(self):
        lines = []
        for _ in range(2 + self.below(6)):
            indent = self.one(["", "  ", "    ", "        ", "\t", "\t\t", "   "])
            name, other = self.word(), self.word()
            lines.append(indent + self.one([f"{name} = {other}[{self.number()}];", f"if ({name}_{other} != NULL) {{", f"def {name}({other}=None):",
                                            f"// {name} {other}", f"{name}.{other}(\"{self.word()}\\n\");", "}", ""]))
        return self.one(["\n", "\r\n"]).join(lines) + "\n"

    def spaces(self):
        run = "".join(self.one(SPACES) * (1 + self.below(5)) for _ in range(1 + self.below(5)))
        return run + self.word() + self.one([" ", "  ", "\n"]) * (1 + self.below(20)) + self.word()

    def marks(self):
        base = self.letters("latin", 1 + self.below(5))
        return "".join(c + "".join(self.one(MARKS) for _ in range(self.below(4))) for c in base) + self.letters("jamo", self.below(6)) + " "

    def odd(self):
        return "".join(self.one(ODD) + self.one(["", "", " ", self.one(SIGNS)]) for _ in range(1 + self.below(6))) + self.one(EMOJI) + self.one(EMOJI)

    def run(self):
        return self.one([self.one("aeix") * (1 + self.below(400)), self.one(SIGNS) * (1 + self.below(40)), self.letters(self.one(sorted(RANGES)), self.below(700)),
                         "".join(self.word() for _ in range(self.below(60))), "\n" * self.below(40), " " * self.below(80), self.number() * self.below(9)])


def corpus(size=1_200_000, seed=20260101):
    rule = Rule(seed)
    kinds = [rule.prose] * 6 + [rule.script] * 5 + [rule.code] * 2 + [rule.spaces, rule.marks, rule.odd, rule.run]
    parts, total = [], 0
    while total < size:
        part = rule.one(kinds)()
        parts.append(part)
        total += len(part.encode())
    return "".join(parts)


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as out:
        out.write(corpus().encode())
