"""Measures how well a model segments, by the published protocol.

python scripts/evaluate.py --server http://127.0.0.1:8000                      drawn scenes, through /segment
python scripts/evaluate.py --checkpoint models/paligemma2-demo-224 --vae models/vae-demo.npz
    drawn scenes, without a server and without the grammar
python scripts/evaluate.py --server ... --coco INSTANCES.json --images FOLDER  a dataset in COCO's format
python scripts/evaluate.py --server ... --refcoco FOLDER --images FOLDER --split val
    RefCOCO as it is published: refs(unc).p and instances.json
Prints the table; writes all figures to --json and the worst and best cases to --sheet.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from parts.evaluate.answerers import Answerer, Checkpoint, Server
from parts.evaluate.cases import Case, plain_cases, scene_cases
from parts.evaluate.folders import coco_cases, refcoco_cases
from parts.evaluate.sheet import draw_sheet
from parts.evaluate.summary import Judged, judge, summarize

_BATCH = 16
_SHEET_CASES = 24


def main() -> None:
    """Asks, scores, and writes the results."""
    arguments = _arguments()
    answerer = _answerer(arguments)
    judged: list[Judged] = []
    cases = itertools.islice(_cases(arguments), arguments.count)
    with tqdm(total=arguments.count, desc="cases") as bar:
        while batch := list(itertools.islice(cases, _BATCH)):
            judged += [judge(case, answer) for case, answer in zip(batch, answerer.ask(batch), strict=True)]
            bar.update(len(batch))
    summary = summarize(judged)
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=2) + "\n")
    if arguments.sheet:
        _sheet(judged, arguments.sheet_order).save(arguments.sheet)
    print(_table(summary))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--server", help="a gateway's address")
    asked.add_argument("--checkpoint", type=Path, help="a checkpoint's folder")
    parser.add_argument("--model-id", help="another model than the server's own")
    parser.add_argument("--vae", type=Path, default=Path("models/vae-demo.npz"), help="mask decoder, with --checkpoint")
    parser.add_argument("--scenes", choices=("mixed", "plain"), default="mixed", help="which drawn scenes")
    parser.add_argument("--coco", type=Path, help="annotation file in COCO's format")
    parser.add_argument("--refcoco", type=Path, help="folder with refs(*).p and instances.json")
    parser.add_argument("--split", default="val", help="of RefCOCO")
    parser.add_argument("--images", type=Path, help="folder of the pictures of --coco or --refcoco")
    parser.add_argument("--seed", type=int, default=20_000, help="of the drawn scenes; training never meets these")
    parser.add_argument("--count", type=int, default=300, help="cases at most")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="picture file")
    parser.add_argument("--sheet-order", choices=("extremes", "first"), default="extremes")
    arguments = parser.parse_args()
    if (arguments.coco or arguments.refcoco) and not arguments.images:
        parser.error("--images is needed, too")
    return arguments


def _answerer(arguments: argparse.Namespace) -> Answerer:
    if arguments.server:
        return Server(arguments.server, arguments.model_id)
    return Checkpoint(arguments.checkpoint, arguments.vae)


def _cases(arguments: argparse.Namespace) -> Iterator[Case]:
    if arguments.coco:
        return coco_cases(arguments.coco, arguments.images)
    if arguments.refcoco:
        return refcoco_cases(arguments.refcoco, arguments.images, arguments.split)
    drawn = plain_cases if arguments.scenes == "plain" else scene_cases
    return drawn(arguments.seed, arguments.count)


def _sheet(judged: list[Judged], order: str) -> Any:
    if order == "first":
        return draw_sheet(judged[:_SHEET_CASES])
    ranked = sorted(judged, key=lambda one: one.worth)
    half = min(_SHEET_CASES, len(ranked)) // 2
    return draw_sheet(ranked[:half] + ranked[len(ranked) - half :])


def _table(summary: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [f"{'':24}{'objects':>8}{'mean IoU':>10}{'box 0.5':>9}{'box 0.75':>9}"]
    groups = {"all": {"": summary["present"]}, **{key: summary[f"by_{key}"] for key in ("family", "size", "form")}}
    for group, rows in groups.items():
        for name, row in rows.items():
            figures = (row["mean_iou"], row["box_accuracy_0.5"], row["box_accuracy_0.75"])
            shown = [f"{figure:.3f}" if figure is not None else "-" for figure in figures]
            lines.append(f"{f'{group} {name}'.strip():24}{row['objects']:>8}{shown[0]:>10}{shown[1]:>9}{shown[2]:>9}")
    absent = summary["absent"]
    precision = f"{absent['precision']:.3f}" if absent["precision"] is not None else "-"
    lines.append(
        f"absent: {absent['left_empty']} of {absent['cases']} left empty; precision of empty answers {precision}"
    )
    lines.append(f"well-formed: {summary['well_formed']:.4f} of {summary['cases']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
