"""The command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from paligemma_client.client import DEFAULT_SERVERS, DEFAULT_TIMEOUT_S, Transport
from paligemma_client.command.errors import UsageError
from paligemma_client.tiling import check_tiles

DESCRIPTION: Final = """Sends pictures to a PaliGemma segmentation server, and writes the objects it finds.

  paligemma-segment picture.jpg --prompt "left wheel"
  paligemma-segment pictures/ --prompt cat --prompt dog --coco out.json --overlays overlays/

If a run is stopped, the same command continues it."""
DEFAULT_CONCURRENCY: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line.

    Attributes:
        pictures: files, folders, patterns, addresses, and lists of them.
        prompts: for all pictures without a prompt in a list.
        coco, jsonl: files to write; None: not wanted.
        masks, overlays, cutouts, yolo: folders to write into; None: not wanted.
        journal: the file that records finished pictures; None if nothing is written.
        restart: whether to clear the journal first.
        concurrency: pictures that are sent at the same time.
        server, transport, api_key: which server, and how.
        timeout_s: for one request, its repetitions included.
        min_score, model_id, max_new_tokens, tiles: as in `Asking`.
        dry_run: whether only to print what would be done.
    """

    pictures: Sequence[str]
    prompts: Sequence[str]
    coco: Path | None = None
    jsonl: Path | None = None
    masks: Path | None = None
    overlays: Path | None = None
    cutouts: Path | None = None
    yolo: Path | None = None
    journal: Path | None = None
    restart: bool = False
    concurrency: int = DEFAULT_CONCURRENCY
    server: str = DEFAULT_SERVERS["rest"]
    transport: Transport = "rest"
    api_key: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    min_score: float = 0.0
    model_id: str | None = None
    max_new_tokens: int | None = None
    tiles: str | None = None
    dry_run: bool = False

    @property
    def folders(self) -> list[Path]:
        """The folders to write into."""
        return [folder for folder in (self.masks, self.overlays, self.cutouts, self.yolo) if folder is not None]

    @property
    def writes(self) -> bool:
        """Whether the command writes files."""
        return bool(self.coco or self.jsonl or self.folders)


def read_options(arguments: Sequence[str] | None) -> Options:
    """Reads a command line; argparse ends the process if it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        return _options(given)
    except UsageError as error:
        parser.error(str(error))


def _options(given: argparse.Namespace) -> Options:
    if given.tiles is not None:
        try:
            check_tiles(given.tiles)
        except ValueError as error:
            raise UsageError(str(error)) from error
    prompts = [*given.prompt, *_lines(given.prompts_file)]
    transport = cast(Transport, given.transport)
    keys = _lines(given.api_key_file)
    if given.api_key_file is not None and not keys:
        raise UsageError(f"{given.api_key_file} holds no key")
    return Options(
        pictures=given.pictures,
        prompts=prompts,
        coco=given.coco,
        jsonl=given.jsonl,
        masks=given.masks,
        overlays=given.overlays,
        cutouts=given.cutouts,
        yolo=given.yolo,
        journal=given.journal or _default_journal(given),
        restart=given.restart,
        concurrency=given.concurrency,
        server=given.server or DEFAULT_SERVERS[transport],
        transport=transport,
        api_key=keys[0] if keys else None,
        timeout_s=given.timeout,
        min_score=given.min_score,
        model_id=given.model_id,
        max_new_tokens=given.max_new_tokens,
        tiles=given.tiles,
        dry_run=given.dry_run,
    )


def _default_journal(given: argparse.Namespace) -> Path | None:
    """Returns a path beside the first output."""
    for file in (given.coco, given.jsonl):
        if file is not None:
            return Path(f"{file}.journal")
    for folder in (given.yolo, given.masks, given.overlays, given.cutouts):
        if folder is not None:
            return Path(folder) / "paligemma-segment.journal"
    return None


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paligemma-segment", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    pictures_help = "files, folders, quoted patterns, http(s) addresses; .txt, .csv or .jsonl: lists of them"
    add("pictures", nargs="+", metavar="PICTURES", help=pictures_help)
    asked = parser.add_argument_group("what to look for")
    add = asked.add_argument
    add("--prompt", action="append", default=[], metavar="TEXT", help="what to look for; may be repeated")
    add("--prompts-file", type=Path, metavar="FILE", help="more prompts, one on each line")
    add("--min-score", type=_share, default=0.0, metavar="S", help="leave out objects with a lower box score")
    add("--tiles", metavar="CxR", help="send large pictures in tiles: 2x2 (columns x rows), or auto")
    add("--model-id", metavar="ID", help="a model other than the server's default")
    add("--max-new-tokens", type=_positive, metavar="N", help="limit on the tokens for each target")
    written = parser.add_argument_group("what to write")
    add = written.add_argument
    add("--coco", type=Path, metavar="FILE", help="COCO annotations with run lengths")
    add("--jsonl", type=Path, metavar="FILE", help="a line of JSON for each picture")
    add("--yolo", type=Path, metavar="DIR", help="YOLO segmentation labels, ready for training")
    add("--masks", type=Path, metavar="DIR", help="a black and white PNG for each object")
    add("--overlays", type=Path, metavar="DIR", help="the pictures with masks, boxes, labels and scores")
    add("--cutouts", type=Path, metavar="DIR", help="a PNG for each object, transparent around it")
    add("--journal", type=Path, metavar="FILE", help="record of finished pictures (default: beside the output)")
    add("--restart", action="store_true", help="clear the journal and send all pictures again")
    add("--dry-run", action="store_true", help="only print what would be done")
    server = parser.add_argument_group("server")
    add = server.add_argument
    servers = ", ".join(f"{address} ({transport})" for transport, address in DEFAULT_SERVERS.items())
    add("--server", metavar="URL", help=f"default: {servers}")
    add("--transport", choices=list(DEFAULT_SERVERS), default="rest", help="the gateway, or Triton's gRPC")
    add("--api-key-file", type=Path, metavar="FILE", help="a file with the gateway's key")
    add("--concurrency", type=_positive, default=DEFAULT_CONCURRENCY, metavar="N", help="pictures at the same time (8)")
    add("--timeout", type=_seconds, default=DEFAULT_TIMEOUT_S, metavar="S", help="for a request and its retries (120)")
    return parser
