"""Figures of the labs: a few kinds, one look. Each function returns the matplotlib axes."""

import matplotlib.pyplot as plt

BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#8d99ae"


def axes(title: str, x: str, y: str, width: float = 6.5, height: float = 3.6):
    """Empty axes with title and labels."""
    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def curve(ax, x, intervals, label: str, color: str = BLUE):
    """A line through the means of (mean, low, high) triples with their 95 % band."""
    mean, low, high = zip(*intervals, strict=True)
    ax.plot(x, mean, "o-", color=color, label=label)
    ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    return ax


def level(ax, value: tuple, label: str, color: str = GREY):
    """A horizontal line at the mean of one (mean, low, high), with its band: a baseline or a ceiling."""
    ax.axhline(value[0], color=color, linestyle="--", linewidth=1, label=label)
    ax.axhspan(value[1], value[2], color=color, alpha=0.12, linewidth=0)
    return ax


def bars(ax, names, intervals, color: str = BLUE, label: str | None = None, shift: float = 0.0, width: float = 0.8):
    """Bars at the means of (mean, low, high) triples with 95 % error bars."""
    mean, low, high = zip(*intervals, strict=True)
    where = [i + shift for i in range(len(names))]
    errors = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
    ax.bar(where, mean, width, yerr=errors, color=color, label=label, capsize=3, error_kw={"linewidth": 1})
    ax.set_xticks(range(len(names)), names)
    return ax


def distribution(ax, tokens: list[str], probabilities, label: str | None = None, color: str = BLUE,
                 shift: float = 0.0, width: float = 0.8):
    """Bars of next-token probabilities; the tokens are quoted so that their spaces show."""
    ax.bar([i + shift for i in range(len(tokens))], probabilities, width, color=color, label=label)
    ax.set_xticks(range(len(tokens)), [repr(t) for t in tokens], rotation=60, ha="right", fontsize=8)
    return ax


def live_curves(names: list[str]):
    """A figure with a panel for each name, redrawn while a training runs, and the function that feeds
    it: add(run, record) takes a line's label and one step's values; add() draws a last time. Runs of
    several conditions ("leash on, seed 1") have one colour a condition, else each run has its own."""
    from IPython.display import display

    rows = -(-len(names) // 4)
    fig, axs = plt.subplots(rows, 4, figsize=(12, 2.3 * rows), layout="constrained", squeeze=False)
    plt.close(fig)  # else it would be shown a second time
    handle, runs = display(fig, display_id=True), {}

    def add(run: str | None = None, record: dict | None = None) -> None:
        if record is not None:
            runs.setdefault(run, []).append(record)
            if (record["step"] + 1) % 5:
                return
        conditions = {label: label.rpartition(", seed")[0] for label in runs}
        groups = conditions if len(set(conditions.values())) > 1 else {label: label for label in runs}
        colors = {group: f"C{i}" for i, group in enumerate(dict.fromkeys(groups.values()))}
        for ax, name in zip(axs.flat, names, strict=False):
            ax.clear()
            ax.set_title(name.replace("_", " "), fontsize=9)
            ax.set_xlabel("step", fontsize=7)
            for label, records in runs.items():
                ax.plot([r["step"] for r in records], [r[name] for r in records], color=colors[groups[label]])
            for group, color in colors.items():
                ax.plot([], [], color=color, label=group)
        axs[0, 0].legend(fontsize=7)
        if handle is not None:  # there is none outside a notebook
            handle.update(fig)

    return add
