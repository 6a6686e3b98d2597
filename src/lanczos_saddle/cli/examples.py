"""Command lines that run, shown at the end of every --help: the shortest way to learn what a command is for."""

from __future__ import annotations

Example = tuple[str, str]

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "": (
        ("demo", "see what it does, in a few seconds"),
        ("new problem.py", "a file for a problem of your own"),
        ("count problem.py:problem --relative-threshold 1e-3", "count its eigenvalues"),
        ("check problem.py:problem", "is it fit to be counted?"),
        ("doctor", "what this machine can do"),
    ),
    "demo": (("demo", "figures in demo-output/"), ("demo --output figures --json demo.json", "and the numbers")),
    "new": (
        ("new problem.py", "a template, with comments"),
        ("count problem.py:problem --relative-threshold 1e-3", "it can be counted as it is"),
    ),
    "train": (
        ("train digits --output digits.safetensors", "a second of training"),
        ("train digits --seed 1 --output other.safetensors", "other weights"),
        ("count digits --weights other.safetensors --relative-threshold 1e-4", "count there"),
    ),
    "download": (("download", "to $LANCZOS_SADDLE_DATA/mnist"), ("count mnist --relative-threshold 1e-3", "then")),
    "plan": (
        ("plan digits --relative-threshold 1e-3", "which way, how long, how much memory"),
        ("plan digits --relative-threshold 1e-3 --max-products 300 --memory 4 --json plan.json", "within a budget"),
        ("plan digits --threshold 1e-3 --no-pilot", "memory and seconds alone, from a few products"),
    ),
    "count": (
        ("count digits --relative-threshold 1e-4", "tau as a share of the largest |eigenvalue|"),
        ("count digits --threshold 1e-3 --parameters '2.*' --json counts.json", "one layer, into a file"),
        ("count problem.py:problem --threshold 1e-3 --method lanczos --max-products 500", "within a budget"),
        ("count digits --interval 0.1 2", "how many lie in [0.1, 2]"),
    ),
    "classify": (
        ("classify digits --relative-threshold 1e-4", "with the gradient that it has"),
        ("classify digits --relative-threshold 1e-4 --epsilon 0.02 --output ends.npz", "and directions"),
    ),
    "exact": (
        ("exact digits", "counts by decades of tau"),
        ("exact digits --output eigenvalues.npz", "and the eigenvalues"),
    ),
    "inertia": (
        ("inertia digits --at -1e-4 1e-4", "below and above both"),
        ("inertia digits --at 0 --memory 4 --directory . --plan", "what it would take within 4 GiB"),
    ),
    "density": (
        ("density digits", "density.npz and density.png"),
        ("density digits --probes 2 --steps 50 --linear 1e-3 --output coarse.npz", "quicker"),
    ),
    "report": (
        ("report counts.json", "report.html, of what count or classify wrote with --json"),
        ("report before.json after.json --title trained -o trained.html", "several records side by side"),
    ),
    "landscapes": (
        ("landscapes --output figures", "figures of known saddles"),
        ("landscapes --limit 200 --json landscapes.json", "fewer steps, and the numbers"),
    ),
    "reproduce": (
        ("reproduce table1 --datasets digits --trials 1", "within a minute"),
        ("reproduce all --report-only", "what has been computed so far"),
    ),
    "check": (
        ("check problem.py:problem", "before hours are spent on it"),
        ("check digits --dtype float32 --json check.json", "the noise of single precision"),
    ),
    "bench": (
        ("bench digits --relative-threshold 1e-3", "beside the exact counts"),
        ("bench digits --probes 2 --steps 50 --json bench.json", "quicker"),
    ),
    "doctor": (("doctor", "with rates: a few seconds"), ("doctor --no-rates --json doctor.json", "at once")),
    "completion": (
        ('eval "$(lanczos-saddle completion bash)"', "in ~/.bashrc"),
        ("completion zsh > ~/.zfunc/_lanczos-saddle", "a folder of $fpath"),
        ("completion fish > ~/.config/fish/completions/lanczos-saddle.fish", "where fish looks"),
    ),
}
"""By command, those of the whole under "": what follows `lanczos-saddle`, or a line of a shell, and what it is for."""


def shown_examples(command: str) -> str:
    """As --help shows them: what each is for, then the line to type."""
    lines = []
    for text, purpose in EXAMPLES[command]:
        lines.append(f"  # {purpose}\n  {text if '$(' in text else f'lanczos-saddle {text}'}")
    return "\n".join(["examples:", *lines])
