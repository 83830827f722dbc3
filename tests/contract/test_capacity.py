"""The table of KV memory and slots in the documentation is what the engine's memory plan computes."""

from documents import DOCS

from parts.replicas.memory_table import ARCHITECTURES, rows, table, weight_count


def test_the_documented_table_is_the_plans() -> None:
    assert table() in (DOCS / "capacity.md").read_text()


def test_the_architectures_have_the_sizes_of_their_checkpoints() -> None:
    """In billions of numbers, as their names say; keys and values of a position as big_vision's sizes give them."""
    sizes = {name: weight_count(architecture) / 1e9 for name, architecture in ARCHITECTURES.items()}
    assert {name: round(size, 2) for name, size in sizes.items()} == {"3b": 3.03, "10b": 9.66, "28b": 27.65}
    positions = {224: 256 + 128 + 256, 448: 1024 + 128 + 256, 896: 4096 + 128 + 256}
    position_bytes = {"3b": 106_496, "10b": 344_064, "28b": 376_832}
    assert all(row.slot_bytes == positions[row.image_size] * position_bytes[row.name] for row in rows())
