"""A forecast in words: a line a way, what a count would choose, and what it is made of."""

from __future__ import annotations

from typing import Any

from lanczos_saddle.forecast.ranks import SHARED

GIB = 2**30


def lines(found: Any) -> list[str]:
    """As a table."""
    said = _head(found)
    shared = found.ranks > 1
    memory = f"{'rank 0':>10}{'others':>10}" if shared else f"{'memory':>10}"
    made = f"{'products':>10}{'a rank':>8}" if shared else f"{'products':>10}"
    said += ["", f"{'way':<22}{memory}{made}{'time':>9}  {'(range)':<19}{'width':>9}  fits"]
    for way in found.ways:
        between = "" if way.fastest is None else f"({_duration(way.fastest)} to {_duration(way.slowest)})"
        width = "?" if way.width is None else str(way.width)
        says = "yes" if way.fits else f"no: {way.instead}"
        more = f", {_bytes(way.disk)} of disk" if way.disk else ""
        memory = _bytes(way.peak).rjust(10) + _bytes(way.other_peak).rjust(10) * shared
        made = f"{way.products:>10}" + f"{way.rank_products:>8}" * shared
        said.append(f"{way.name:<22}{memory}{made}{_duration(way.seconds):>9}  {between:<19}{width:>9}  {says}{more}")
    return said + _choice(found) + [f"no {name}: {why}" for name, why in found.missing.items()]


def _head(found: Any) -> list[str]:
    """What there is, and what was spent."""
    spent = ", ".join(f"{name} {number}" for name, number in found.products.items())
    tau = "not known without a pilot" if found.threshold is None else f"{found.threshold:.3e}"
    there = ", ".join(f"{name} {_bytes(number)}" for name, number in found.held.items())
    said = [
        f"N = {found.size}, {found.dtype} on {found.device}; tau = {tau}; there already: {there}; "
        f"{_bytes(found.free)} may be used" + " by each rank" * (found.ranks > 1),
        f"spent on this plan: {sum(found.products.values())} products ({spent})",
    ]
    if found.seconds_per_product is not None and found.seconds_range is not None:
        low, high = (_duration(s) for s in found.seconds_range)
        said.append(
            f"a product: {_duration(found.seconds_per_product)} a column in blocks of {found.columns} "
            f"({low} to {high} in {found.blocks} blocks)" + " on one process" * (found.ranks > 1)
        )
    if found.ranks > 1:
        said.append(
            f"{found.ranks} ranks share {SHARED[found.over]}; {found.link:.3g} bytes a second between them are assumed"
        )
    return said


def _choice(found: Any) -> list[str]:
    """What a count would choose."""
    said, choice = ["", f"a count with these options takes: {found.chosen} ({found.reason})"], found.choice
    if choice is None:
        return said
    run = f"{choice.probes} probes x {choice.steps} steps; " if choice.probes else ""
    said.append(f"  {run}{choice.ends}")
    said.append(f"  memory{' of rank 0' * (found.ranks > 1)}: {_parts(choice.parts)}")
    if found.ranks > 1:
        said.append(f"  memory of each other rank: {_parts(choice.others)}")
    if not choice.fits:
        said.append(f"  it does not fit: {choice.instead}")
    return said


def _parts(parts: Any) -> str:
    return ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items() if size)


def _bytes(number: int) -> str:
    if number < 2**20:
        return f"{number / 2**10:.0f} KiB"
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / GIB:.1f} GiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"
