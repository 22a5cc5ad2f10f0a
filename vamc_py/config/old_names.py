"""Names that older public vamc files use for today's keys."""

from __future__ import annotations

from vamc_py.config.place import Path, dotted
from vamc_py.config.tree import Tree

OLD_NAMES: dict[Path, Path] = {
    ("model",): ("name",),
    ("workspace", "work_dir"): ("workspace", "path"),
    ("backend", "quantize", "alibrate_mode"): ("backend", "quantize", "calibrate_mode"),  # misspelt in two files
}


def new_path(path: Path) -> Path:
    """Today's path of a key."""
    return OLD_NAMES.get(path, path)


def rename(tree: Tree) -> list[str]:
    """Move old names to today's; one notice for each. A key written under both names is a fault."""
    notices = []
    for old, new in OLD_NAMES.items():
        holder = tree.data
        for key in old[:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or old[-1] not in holder:
            continue
        if new[-1] in holder:
            tree.key_fault(old, f"an old name of {dotted(new)}, which is written as well; keep one")
            del holder[old[-1]]
            continue
        holder[new[-1]] = holder.pop(old[-1])
        tree.places[new] = tree.places.pop(old)
        tree.keys[new] = tree.keys.pop(old)
        notices.append(f"{tree.keys[new]}: {dotted(old)} is read as {dotted(new)}.")
    return notices
