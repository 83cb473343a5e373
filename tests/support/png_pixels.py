"""png_pixels.py FILE X,Y...: prints the size of a PNG (8-bit RGB or RGBA, not interlaced) as WIDTHxHEIGHT, and then the
colours of some of its pixels as rrggbb, one per line."""
import struct
import sys
import zlib


def rows(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n", "not a PNG"
    at, body, head = 8, b"", None
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IHDR":
            head = struct.unpack(">IIBBBBB", data[at + 8 : at + 21])
        if kind == b"IDAT":
            body += data[at + 8 : at + 8 + size]
        at += size + 12
    width, height, depth, colour, _, _, interlace = head
    assert depth == 8 and colour in (2, 6) and not interlace, f"unexpected kind {head}"
    pixel = 3 if colour == 2 else 4
    return width, height, pixel, unfilter(zlib.decompress(body), width * pixel, height, pixel)


def paeth(a, b, c):
    p = a + b - c
    da, db, dc = abs(p - a), abs(p - b), abs(p - c)
    return a if da <= db and da <= dc else b if db <= dc else c


def unfilter(raw, stride, height, pixel):
    previous, result = bytearray(stride), []
    for y in range(height):
        start = y * (stride + 1)
        kind, line = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        if kind == 2 and not any(line):
            line = previous
        elif kind == 2:
            line = bytearray((a + b) & 255 for a, b in zip(line, previous))
        elif kind:
            for x in range(stride):
                left = line[x - pixel] if x >= pixel else 0
                corner = previous[x - pixel] if x >= pixel else 0
                above = previous[x]
                guess = left if kind == 1 else (left + above) // 2 if kind == 3 else paeth(left, above, corner)
                line[x] = (line[x] + guess) & 255
        result.append(line)
        previous = line
    return result


def main():
    width, height, pixel, lines = rows(open(sys.argv[1], "rb").read())
    print(f"{width}x{height}")
    for point in sys.argv[2:]:
        x, y = map(int, point.split(","))
        print("%02x%02x%02x" % tuple(lines[y][x * pixel : x * pixel + 3]))


if __name__ == "__main__":
    main()
