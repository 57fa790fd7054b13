"""The tables of docs/scaling.md, from what benchmarks/scaling.py has measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.tables import table

ITEMS = 10**6
SCALES = (10**6, 10**9)


def _found(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def cost_table(path: Path) -> str:
    found = _found(path)
    machine, cores = found["machine"], int(found["machine"]["cores"])
    shown = f"{found['model']} on {cores} cores of {machine['processor']}, {machine['when']}.\n\n"
    rows = (
        [
            f"{each['name']}, {how}",
            f"{rate:,.0f}",
            f"{ITEMS / rate / 3600:.1f}",
            f"{cores * ITEMS / rate / 3600:.1f}",
        ]
        for each in found["loads"].values()
        for how, rate in (("one per request", each["best"]), ("bulk", each["bulk"]))
        if how == "one per request" or rate != each["best"]
    )
    return shown + table(["", "per second", "hours per million", "core hours per million"], rows)


def replicas_table(path: Path) -> str:
    rows = (
        [
            each["name"],
            f"{row['rate']:,}",
            _time(row["p99"]),
            str(row["random"] or "no number suffices"),
            str(row["shorter of two"] or "no number suffices"),
        ]
        for each in _found(path)["loads"].values()
        for row in each["replicas"]
    )
    head = ["", "requests per second", "p99 limit", "replicas, random", "replicas, shorter of two"]
    return table(head, rows)


def point_table(path: Path) -> str:
    rows = (
        [
            each["name"],
            f"{each['point']['rate']:.1f}",
            f"{each['point']['requests']:,}",
            *(
                f"{_time(each['point'][name])} / {_time(each['point'][f'simulated_{name}'])}"
                for name in ("p50", "p99")
            ),
        ]
        for each in _found(path)["loads"].values()
    )
    head = ["", "per second", "requests", "p50, measured / simulated", "p99, measured / simulated"]
    return table(head, rows)


def storage_table(path: Path) -> str:
    kept = _found(path)["storage"]
    wanted = [
        ("a row of 512 numbers in Parquet, f32", "row_bytes_f32"),
        ("a row of 512 numbers in Parquet, f16", "row_bytes_f16"),
        ("an item in the ledger of a job", "ledger_bytes"),
    ]
    rows = [
        [what, f"{kept[name]:,.0f}", *(_size(kept[name] * scale) for scale in SCALES)]
        for what, name in wanted
    ]
    sizes = table(["", "bytes", "10^6 items", "10^9 items"], rows)
    return (
        f"{sizes}\nListing finds {kept['listed_per_second']:,.0f} files per second. A bulk job "
        f"without its model writes {kept['rows_per_second']:,.0f} rows per second.\n"
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count < 1e12 else f"{count / 1e12:,.1f} TB"
