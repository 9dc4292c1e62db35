"""Frauds and amounts by part of the day: reads ../data, writes ../results, needs no network."""

import csv
import json
import os
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median

DATA, RESULTS = Path("../data"), Path("../results")
HOURS = 6  # of one part of the day


def main() -> None:
    """Read the transactions, summarise them, write what escrow.yml declares."""
    with (DATA / "transactions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = defaultdict(list)
    for row in rows:
        parts[int(row["time"][11:13]) // HOURS * HOURS].append(row)

    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "by_hour.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["from_hour", "transactions", "frauds", "median_amount"])
        for from_hour, part in sorted(parts.items()):
            frauds = sum(int(row["fraud"]) for row in part)
            amount = median(float(row["amount"]) for row in part)
            table.writerow([from_hour, len(part), frauds, f"{amount:.2f}"])
    summary = {
        "confidential": os.environ.get("CONFIDENTIAL", "no") == "yes",
        "transactions": len(rows),
        "fraud_share": round(fmean(int(row["fraud"]) for row in rows), 4),
    }
    (RESULTS / "summary.json").write_text(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
