"""What a profile suggests: each sentence with the number that it follows from."""

from __future__ import annotations

from typing import Any

WAIT = 0.10        # share of a step that waits for data
TRANSFER = 0.10
UPDATE = 0.20      # clipping, optimizer, constraint and average together
WATCH = 0.08
VALIDATION = 0.25  # of the whole run
CHECKPOINT = 0.08
OTHER = 0.15
FASTER = 1.2       # images per second of a larger batch against the recipe's


def advice(record: dict[str, Any]) -> list[dict[str, str]]:
    """{"because", "do"} in order of what is to be won; one row that says so where there is nothing. record: of
    run/profile.py."""
    shares = {row["name"]: row["share"] for row in record["parts"]}
    outside = {row["name"]: row["share"] for row in record["outside"]}
    found: list[tuple[float, str, str]] = []

    def add(share: float, because: str, do: str) -> None:
        found.append((share, because, do))

    wait = shares.get("data", 0.0)
    if wait > WAIT:
        more = f"data.workers={max(2, 2 * record['workers'])}" if record["workers"] else "data.workers=2"
        add(wait, f"{wait:.0%} of a step waits for images",
            f"--set {more} loads ahead in other processes" if record["cache"] else
            f"--set data.cache=true keeps the decoded images, --set {more} loads ahead")
    update = sum(shares.get(name, 0.0) for name in ("clip", "optimizer", "constrain", "average"))
    if update > UPDATE:
        largest = max(("clip", "optimizer", "constrain", "average"), key=lambda name: shares.get(name, 0.0))
        add(update, f"{update:.0%} of a step changes the weights ({largest} alone {shares[largest]:.0%})",
            "This time is the same for any batch: a larger --batch-size, or --set train.accumulate=2, has fewer updates"
            + (" (mind the rate: optimizer.lr_batch)"))
    transfer = shares.get("to device", 0.0)
    if transfer > TRANSFER and record["device"] != "cpu":
        add(transfer, f"{transfer:.0%} of a step copies images to the GPU",
            "Smaller images (--image-size), or --set data.workers=2, whose batches lie in pinned memory")
    watch = shares.get("watch", 0.0)
    if watch > WATCH:
        add(watch, f"the doctor looks at weights and gradients for {watch:.0%} of a step",
            "--set doctor.watch=false once a recipe is known to be sound")
    batches = record["batches"]
    if len(batches) > 1:
        best = max(batches, key=lambda row: row["images_per_s"])
        gain = best["images_per_s"] / batches[0]["images_per_s"]
        computing = shares.get("forward", 0.0) + shares.get("backward", 0.0)
        if gain > FASTER:
            add((1 - 1 / gain) * computing, f"batches of {best['batch']} compute {gain:.2f} times as many images a "
                f"second as those of {batches[0]['batch']}",
                f"--batch-size {best['batch']} --set optimizer.lr_batch={batches[0]['batch']} scales the rate with it")
    if record["device"] != "cpu" and record["precision"] == "fp32" and shares.get("forward", 0.0) > 0.2:
        add(0.3, "the GPU computes in float32", "--set train.precision=bf16 uses its matrix units")
    validation = outside.get("validation", 0.0)
    if validation > VALIDATION:
        add(validation, f"{validation:.0%} of the run measures the validation split",
            "A smaller split (--set data.val=0.05) where it is much larger than the intervals need")
    checkpoint = outside.get("checkpoint", 0.0)
    if checkpoint > CHECKPOINT:
        add(checkpoint, f"{checkpoint:.0%} of the run writes checkpoints",
            "An epoch is short here: more images or repeats an epoch (--set data.repeats=2) writes less often")
    other = shares.get("other", 0.0)
    if other > OTHER:
        add(other, f"{other:.0%} of a step is none of these: Python, the log, other programs on this machine",
            "A larger --batch-size has fewer steps; see whether something else runs here")
    if not found:
        fraction = record["fraction"].get("step")
        at = "" if fraction is None else f", at {fraction:.0%} of the matrix product's rate"
        computing = shares.get("forward", 0.0) + shares.get("backward", 0.0)
        return [{"because": f"forward and backward passes take {computing:.0%} of a step{at}",
                 "do": "Nothing stands out: what is left is the model itself and the machine"}]
    return [{"because": because, "do": do} for _, because, do in sorted(found, key=lambda row: -row[0])]
