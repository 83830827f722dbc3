"""Makes and reads the atlas: one file with the pictures of everyday objects, drawn from a font.

python -m parts.training.atlas FONT    (in scripts/; FONT is NotoColorEmoji.ttf, of Debian's fonts-noto-color-emoji)
"""

import math
import sys
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from parts.training.names import KINDS

ATLAS: Final = Path(__file__).with_name("everyday.png")
TILE: Final = 112  # pixels; longer side of a picture
_COLUMNS: Final = 8
_GLYPH_SIZE: Final = 109  # the only size of the font's bitmaps
_GLYPH_ROOM: Final = 160


def drawn_names() -> list[str]:
    """Names of the objects in the atlas, row by row."""
    return [kind.name for kind in KINDS if kind.glyph]


def read_atlas() -> dict[str, Image.Image]:
    """RGBA pictures [TILE, TILE] by the object's name, not premultiplied."""
    with Image.open(ATLAS) as atlas:
        atlas.load()
        tiles = {}
        for index, name in enumerate(drawn_names()):
            left, top = index % _COLUMNS * TILE, index // _COLUMNS * TILE
            tiles[name] = atlas.crop((left, top, left + TILE, top + TILE)).convert("RGBA")
        return tiles


def make_atlas(font_file: Path) -> Image.Image:
    """Draws each object's glyph, cropped, scaled and centred in its tile."""
    font = ImageFont.truetype(str(font_file), _GLYPH_SIZE)
    glyphs = [kind.glyph for kind in KINDS if kind.glyph]
    atlas = Image.new("RGBA", (_COLUMNS * TILE, math.ceil(len(glyphs) / _COLUMNS) * TILE))
    for index, glyph in enumerate(glyphs):
        drawn = Image.new("RGBA", (_GLYPH_ROOM, _GLYPH_ROOM))
        ImageDraw.Draw(drawn).text((0, 0), glyph, font=font, embedded_color=True)
        drawn = drawn.crop(drawn.getchannel("A").getbbox())
        scale = TILE / max(drawn.size)
        drawn = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.LANCZOS)
        left, top = index % _COLUMNS * TILE, index // _COLUMNS * TILE
        atlas.paste(drawn, (left + (TILE - drawn.width) // 2, top + (TILE - drawn.height) // 2))
    return atlas


if __name__ == "__main__":
    make_atlas(Path(sys.argv[1])).save(ATLAS, optimize=True)
