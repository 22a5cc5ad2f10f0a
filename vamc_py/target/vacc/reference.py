"""``python -m vamc_py.target.vacc.reference`` prints the figures in docs/vacc.md, made from the cards' files."""

from __future__ import annotations

from vamc_py.target.vacc.device import Device, Fact, figures, meaning


def table() -> str:
    """Every figure of every real card as Markdown; cards that agree in a figure and its source share a row."""
    cards = [Device.named(name) for name in Device.names() if name != "tiny"]
    lines = ["| figure | cards | value | | source |", "|---|---|---|---|---|"]
    for key in figures():
        shared: dict[Fact, list[str]] = {}
        for card in cards:
            fact = next(fact for fact in card.facts() if fact.key == key)
            shared.setdefault(fact, []).append(card.name)
        first = f"`{key}`: {meaning(key)}"
        for fact, names in shared.items():
            who = "all" if len(names) == len(cards) else ", ".join(names)
            status = "**published**" if fact.status == "published" else "assumed"
            lines.append(f"| {first} | {who} | {value_text(key, fact.value)} | {status} | {fact.source} |")
            first = ""
    return "\n".join(lines) + "\n"


def value_text(key: str, value: float) -> str:
    """A figure with its unit."""
    if key.endswith("_bytes_s"):
        return f"{value / 1e9:g} GB/s"
    if key.endswith("_s"):
        return f"{value * 1e6:g} µs"
    if key in ("ssram_bytes", "ddr_bytes"):
        return f"{int(value) >> 30} GiB" if value % (1 << 30) == 0 else f"{value / 1e6:g} MB"
    scales = {"clock_hz": (1e6, "MHz"), "int8_ops": (1e12, "TOPS"), "fp16_flops": (1e12, "TFLOPS")}
    scale, unit = scales.get(key, (1, ""))
    return f"{value / scale:g} {unit}".strip()


if __name__ == "__main__":
    print(table(), end="")
