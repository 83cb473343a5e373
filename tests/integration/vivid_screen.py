"""vivid_screen.py FILE...: prints one line for each picture of a screen that shows a vivid camera unscaled from its top left
corner: "bars right" or which bar is wrong, and the frame counter of vivid's text overlay."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from png_pixels import rows  # noqa: E402

# grey, yellow, cyan, green, magenta, red, blue, black at 75 %, as XRGB
BARS = [(0xBF, 0xBF, 0xBF), (0xBF, 0xBF, 0), (0, 0xBF, 0xBF), (0, 0xBF, 0), (0xBF, 0, 0xBF), (0xBF, 0, 0), (0, 0, 0xBF), (0, 0, 0)]
# The digits of the kernel's 8x16 font, one byte per row, as they appear on the screen.
DIGITS = {
    "0000386cc6c6d6d6c6c66c3800000000": "0", "00001838781818181818187e00000000": "1",
    "00007cc6060c183060c0c6fe00000000": "2", "00007cc606063c060606c67c00000000": "3",
    "00000c1c3c6cccfe0c0c0c1e00000000": "4", "0000fec0c0c0fc060606c67c00000000": "5",
    "00003860c0c0fcc6c6c6c67c00000000": "6", "0000fec606060c183030303000000000": "7",
    "00007cc6c6c67cc6c6c6c67c00000000": "8", "00007cc6c6c67e0606060c7800000000": "9",
}


def examine(path):
    with open(path, "rb") as file:
        width, height, size, lines = rows(file.read())
    lines = list(lines)

    def pixel(x, y):
        return tuple(lines[y][x * size : x * size + 3])

    wrong = []
    for i, bar in enumerate(BARS):
        for y in (height // 2, height * 3 // 4, height - 2):
            seen = pixel((2 * i + 1) * width // 16, y)
            if any(abs(a - b) > 8 for a, b in zip(seen, bar)):
                wrong.append(f"bar {i} is {seen} at row {y}")

    def character(column):  # of the overlay's first line, which starts 16 pixels from the corner
        glyph = ""
        for y in range(16, 32):
            byte = sum(1 << (7 - b) for b in range(8) if sum(pixel(16 + 8 * column + b, y)) > 300)
            glyph += f"{byte:02x}"
        return DIGITS.get(glyph, "")

    # " 00:00:08:156 489": the counter follows the time.
    counter = ""
    for column in range(14, 24):
        digit = character(column)
        if not digit:
            break
        counter += digit
    return f"{'bars right' if not wrong else '; '.join(wrong)}, {width}x{height}, counter {counter or 'unreadable'}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(examine(name))
