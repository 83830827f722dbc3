"""Which pictures the command finds, and what it asks about each."""

from pathlib import Path

from paligemma_client.command.jobs import Job, find_jobs
from paligemma_client.command.options import Options


def jobs(*pictures: object, prompts: tuple[str, ...] = ("x",)) -> list[Job]:
    return find_jobs(Options(pictures=[str(picture) for picture in pictures], prompts=prompts))


def test_a_list_of_paths_and_addresses(pictures: Path) -> None:
    file = pictures / "list.txt"
    file.write_text("b.png\n\nhttp://host/x%20y.jpg?z=1\n")
    assert [(job.name, job.prompts) for job in jobs(file)] == [("b.png", ("x",)), ("x y.jpg", ("x",))]


def test_a_csv_with_a_prompt_for_each_picture(pictures: Path) -> None:
    file = pictures / "list.csv"
    file.write_text("picture,prompt\nb.png,cat\nsub/a.png,\nb.png,dog\n")
    asked = [(job.name, job.prompts) for job in jobs(file)]
    assert asked == [("b.png", ("cat", "dog")), ("a.png", ("x",))]


def test_json_lines_alone_say_what_is_asked(pictures: Path) -> None:
    file = pictures / "list.jsonl"
    file.write_text('{"picture": "b.png", "prompt": "red; blue"}\n')
    assert [(job.name, job.prompts) for job in jobs(file, prompts=())] == [("b.png", ("red; blue",))]


def test_patterns_and_names_that_collide(pictures: Path) -> None:
    found = jobs(f"{pictures}/**/a.*", pictures / "b.png")
    assert len({job.name for job in found}) == len({job.base for job in found}) == len(found) == 4
    assert found[-1].name == "b.png"
