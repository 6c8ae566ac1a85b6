"""What the commands below `vitscale data` print: tables of data sets, of what is in one, and of what a check found."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from orchestrator import wording
from orchestrator.screen import OUT, print_table, say
from studies.procedural import ENDLESS

MOST_FAULTS = 20
"""Faults that are printed; all of them are in the JSON."""
MOST_CLASSES = 20
"""A set with more shows its most frequent and its rarest ones."""
_BAR = 30
_FREQUENT = 0.01
"""A size that fewer share is not worth a line."""
_POLICIES = {"fail": "stop a training", "skip": "are left out"}


def rows(number: int) -> str:
    """A number of images."""
    return "endless" if number >= ENDLESS else f"{number:,}"


def print_data_sets(found: Sequence[dict[str, Any]]) -> None:
    """One line a split, the facts of its data set on the first of them."""
    lines = []
    for each in found:
        where = "built in" if each["built_in"] and each["location"] else each["location"] or each["kind"]
        facts = (each["name"], f"{each['classes']:,}", size(each["image_size"]), _bytes(each["size_bytes"]), where)
        for number, (split, images) in enumerate(each["splits"].items()):
            name, classes, pixels, size_bytes, place = facts if number == 0 else ("",) * 5
            lines.append((Text(name, "bold"), split, rows(images), classes, pixels, size_bytes, place))
    print_table(
        [
            ("data set", "left"),
            ("split", "left"),
            ("images", "right"),
            ("classes", "right"),
            ("pixels", "right"),
            ("bytes", "right"),
            ("where", "left"),
        ],
        lines,
    )
    for each in found:
        if each["fault"]:
            say(f"{each['name']}: {each['fault']}")


def size(image_size: int | None) -> str:
    """The size that all images have."""
    return "vary" if image_size is None else f"{image_size} x {image_size}"


def _bytes(number: int | None) -> str:
    return "-" if number is None else wording.memory(number)


def _facts(facts: Sequence[tuple[str, str | None]]) -> None:
    for name, fact in facts:
        if fact:
            OUT.print(Text(f"  {name:<17}{fact}"))


# -------------------------------------------------------------------------------------------------------------- show


def print_data_set(report: dict[str, Any]) -> None:
    """A data set: what it is, its splits, and what is in one of them."""
    OUT.print(Text.assemble((report["name"], "bold"), f"  {report['kind']}"))
    _facts(
        [
            ("where", report["location"]),
            ("index", report["index"]),
            ("registry", report["registry"]),
            ("source", report["source"]),
            ("classes", f"{report['classes']:,}{', several an image' if report['multi_label'] else ''}"),
            ("pixels", f"{size(report['image_size'])}, {wording.counted(report['channels'], 'channel')}"),
            ("bad rows", _POLICIES[report["bad_rows"]] if report["location"] else None),
            ("generator", ", ".join(f"{key} {value}" for key, value in (report["generator"] or {}).items())),
        ]
    )
    OUT.print()
    print_table(
        [("split", "left"), ("images", "right"), ("left out", "right"), ("fingerprint", "left"), ("is", "left")],
        [
            (
                each["split"],
                rows(each["rows"]),
                f"{each['skipped']:,}" if each["skipped"] else "",
                each["fingerprint"][:12] if each["fingerprint"] else "-",
                each["how"],
            )
            for each in report["splits"]
        ],
    )
    shown = report["shown"]
    if shown is None or not report["location"]:
        return
    OUT.print()
    about = [] if shown["shards"] is None else [f"{wording.counted(shown['shards'], 'shard')}"]
    about += [] if shown["size_bytes"] is None else [_bytes(shown["size_bytes"])]
    OUT.print(Text(f"the {shown['split']} split{': ' + ', '.join(about) if about else ''}", "italic"))
    if shown["sizes"]:
        _print_sizes(shown["sizes"], f"of {shown['sizes']['images']:,} images")
    if shown["class_counts"]:
        OUT.print()
        _print_classes(shown["class_counts"], shown["class_names"])


def _print_sizes(sizes: dict[str, Any], of: str) -> None:
    """Smallest, median and largest sides, and how many images have which."""
    if sizes["distinct"] == 1:
        only = sizes["most_common"][0]
        OUT.print(Text(f"  {'sizes':<17}{only['width']} x {only['height']} pixels, all {of}"))
        return
    common = sizes["most_common"][0]
    share = common["images"] / sizes["images"]
    frequent = f"{common['width']} x {common['height']} pixels: {wording.percent(share)} {of}"
    _facts(
        [
            ("width", _range(sizes["width"])),
            ("height", _range(sizes["height"])),
            ("most common", frequent if share >= _FREQUENT else None),
        ]
    )
    most = max(each["images"] for each in sizes["by_shorter_side"])
    print_table(
        [("  shorter side", "left"), ("images", "right"), ("", "left")],
        [
            (f"  {each['from']:,} to {each['to']:,}", f"{each['images']:,}", bar(each["images"], most))
            for each in sizes["by_shorter_side"]
        ],
    )


def _range(spread: dict[str, int]) -> str:
    return f"{spread['min']:,} to {spread['max']:,} pixels, median {spread['median']:,}"


def bar(number: int, most: int) -> str:
    """A bar of a length that stands for a number; what is not nothing can be seen."""
    return "█" * (0 if number == 0 else max(1, round(_BAR * number / most)))


def _print_classes(counts: Sequence[int], names: Sequence[str]) -> None:
    """Images of each class, or of the most frequent and the rarest ones."""
    order = sorted(range(len(counts)), key=lambda label: (-counts[label], label))
    if len(counts) <= MOST_CLASSES:
        shown: list[int | None] = list(range(len(counts)))
    else:
        half = MOST_CLASSES // 2
        shown = [*order[:half], None, *order[-half:]]
    most, digits = max(counts), len(str(len(counts) - 1))
    lines = [
        ("", f"{len(counts) - MOST_CLASSES:,} more", "", "")
        if label is None
        else (
            f"{label:>{digits}}",
            names[label] if names else "",
            f"{counts[label]:,}",
            bar(counts[label], most),
        )
        for label in shown
    ]
    print_table([("class", "right"), ("name", "left"), ("images", "right"), ("", "left")], lines)
    mean = sum(counts) / len(counts)
    empty = sum(count == 0 for count in counts)
    OUT.print(
        Text(
            f"images of a class: {min(counts):,} to {max(counts):,}, {mean:,.1f} on average"
            + (f"; {wording.counted(empty, 'class')[: -1 if empty == 1 else None]} without any" if empty else "")
        )
    )


# ------------------------------------------------------------------------------------------------------ add and check


def print_added(entry: dict[str, Any]) -> None:
    """A new entry of the registry."""
    OUT.print(Text.assemble((entry["name"], "bold"), "  added"))
    _facts(
        [
            ("where", entry["location"]),
            ("index", entry["index"]),
            ("registry", entry["registry"]),
            ("classes", f"{entry['classes']:,}{', several an image' if entry['multi_label'] else ''}"),
            ("pixels", f"{size(entry['image_size'])}, {wording.counted(entry['channels'], 'channel')}"),
        ]
    )
    OUT.print()
    columns = [("split", "left"), ("images", "right"), ("rarest class", "right"), ("fingerprint", "left")]
    lines = [
        (split, rows(each["rows"]), rows(each["fewest"]) if "fewest" in each else "-", each["fingerprint"][:12])
        for split, each in entry["splits"].items()
    ]
    print_table(columns, lines)


def print_imported(result: dict[str, Any]) -> None:
    """What an import made, and what it left out."""
    ignored = ", ".join(f"{number:,} {suffix or 'without an ending'}" for suffix, number in result["ignored"].items())
    OUT.print(Text.assemble((result["name"], "bold"), f"  imported from {result['format']}"))
    _facts(
        [
            ("from", result["source"]),
            ("to", result["location"]),
            ("classes", f"{result['classes']:,}"),
            ("pixels", f"{size(result['image_size'])}, {wording.counted(result['channels'], 'channel')}"),
            ("resized", f"shorter side to {result['resized']:,} pixels" if result["resized"] else None),
            ("no images", ignored),
        ]
    )
    OUT.print()
    print_table(
        [
            ("split", "left"),
            ("images", "right"),
            ("rarest class", "right"),
            ("shards", "right"),
            ("bytes", "right"),
            ("fingerprint", "left"),
        ],
        [
            (
                split,
                rows(each["rows"]),
                rows(each["fewest"]) if "fewest" in each else "-",
                f"{each['shards']:,}",
                _bytes(each["size_bytes"]),
                each["fingerprint"][:12],
            )
            for split, each in result["splits"].items()
        ],
    )
    if result["was_there"]:
        say(f"{result['name']} was imported before from there, in this way: nothing was written")
    elif result["shards_from_before"]:
        say(f"{wording.counted(result['shards_from_before'], 'shard')} of an import that was stopped had been written")
    skipped = result["skipped"]
    for each in skipped[:MOST_FAULTS]:
        say(f"left out of {each['split']}: {each['file']}: {each['fault']}")
    if len(skipped) > MOST_FAULTS:
        say(f"left out: {len(skipped) - MOST_FAULTS:,} more; --json lists all of them")


def print_check(report: dict[str, Any]) -> None:
    """What was found in each split, what is wrong first."""
    for number, each in enumerate(report["splits"]):
        if number:
            OUT.print()
        _print_checked(report["dataset"], each)
    listed = [each for each in report["splits"] if each["bad"] and each["bad"]["rows"]]
    for each in listed:
        say(
            f"{report['dataset']} {each['split']}: {wording.counted(each['bad']['rows'], 'bad row')} listed in "
            f"{each['bad']['file']}, beside {report['registry']}"
        )
    if listed and report["bad_rows"] == "fail":
        say("a training stops at a bad row; to leave them out, check again with --skip-bad")


def _print_checked(name: str, found: dict[str, Any]) -> None:
    OUT.print(Text.assemble((name, "bold"), f"  {found['split']}"))
    formats = ", ".join(f"{kind} {images:,}" for kind, images in found["formats"].items())
    _facts(
        [
            ("read", f"{found['rows_read']:,} of {wording.counted(found['rows'], 'image')}"),
            ("shards", f"{found['shards']:,}, {_bytes(found['size_bytes'])}"),
            ("formats", formats),
            ("fingerprint", found["fingerprint"][:12]),
            ("classes", _classes_in_short(found["class_counts"])),
        ]
    )
    if found["sizes"]:
        _print_sizes(found["sizes"], f"of {found['sizes']['images']:,} images")
    OUT.print()
    _print_findings(found)
    _print_faults(found)


def _classes_in_short(counts: Sequence[int]) -> str:
    empty = sum(count == 0 for count in counts)
    without = f", {empty:,} without an image" if empty else ""
    return f"{len(counts):,}, with {min(counts):,} to {max(counts):,} images{without}"


def _print_findings(found: dict[str, Any]) -> None:
    """How many images have which fault or oddity, and where the first one is."""
    lines: list[tuple[str | Text, ...]] = []
    if found["broken"]:
        first = found["broken"][0]
        lost = sum(each["rows"] for each in found["broken"])
        lines.append((Text("cannot be read", "red"), f"{lost:,}", f"{first['file']} row {first['row_in_file']:,}"))
    by_fault: dict[str, list[dict[str, Any]]] = {}
    for each in found["faults"]:
        by_fault.setdefault(each["fault"], []).append(each)
    for fault, each_bad in by_fault.items():
        place = f"{each_bad[0]['file']} row {each_bad[0]['row_in_file']:,}"
        lines.append((Text(fault, "red"), f"{len(each_bad):,}", place))
    for kind, files in found["oddities"].items():
        file, odd = next(iter(files.items()))
        lines.append((Text(kind, "yellow"), f"{sum(map(len, files.values())):,}", f"{file} row {odd[0]:,}"))
    if lines:
        print_table([("found", "left"), ("images", "right"), ("first at", "left")], lines)
    else:
        OUT.print(Text("every image is sound", "green"))


def _print_faults(found: dict[str, Any]) -> None:
    """The first faults one by one."""
    faults = [*found["broken"], *found["faults"]]
    if not faults:
        return
    OUT.print()
    lines = [
        (
            each["file"],
            f"{each['row_in_file']:,}" + (f" to {each['row_in_file'] + each['rows'] - 1:,}" if "rows" in each else ""),
            each["message"],
        )
        for each in faults[:MOST_FAULTS]
    ]
    print_table([("shard", "left"), ("row", "right"), ("fault", "left")], lines)
    if len(faults) > MOST_FAULTS:
        OUT.print(Text(f"{len(faults) - MOST_FAULTS:,} more; --json lists all of them"))


# ------------------------------------------------------------------------------------------------------------- dedup


def print_duplicates(report: dict[str, Any]) -> None:
    """How many images of a split are in which others, and where the list of them is."""
    OUT.print(Text.assemble((report["dataset"], "bold"), f"  {report['split']}"))
    _facts(
        [
            ("images", f"{report['rows']:,}"),
            ("unreadable", f"{report['unreadable']:,}: left where they are" if report["unreadable"] else None),
            ("without hash", f"{report['without_hash']:,}: compared byte by byte" if report["without_hash"] else None),
            ("duplicates", f"{report['dropped']:,}: {report['exact']:,} exact, {report['near']:,} near"),
            ("radius", f"{report['radius']} of 64 bits"),
            ("list", report["list"]["path"]),
            ("new split", report["new_split"]),
            ("report", report["report"]),
        ]
    )
    OUT.print()
    print_table(
        [("against", "left"), ("split", "left"), ("images", "right"), ("found", "right")],
        [(each["dataset"], each["split"], f"{each['rows']:,}", f"{each['found']:,}") for each in report["against"]],
    )
