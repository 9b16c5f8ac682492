"""Files as EC-Lab writes them, for tests."""

import struct

NAMES = "mode\tox/red\tNs\ttime/s\tEwe/V\tI/mA\t(Q-Qo)/mA.h\thalf cycle\t"


def eclab(rows, *, names=NAMES, started: str | None = "01/10/2024 11:02:29.886", end="\r\n", comma=False) -> bytes:
    """An EC-Lab text file of ``rows`` (lists of numbers or words)."""
    head = ["", "Galvanostatic Cycling with Potential Limitation", "", "Device : SP-300 (SN 1854)", "Electrode surface area : 0,000 cm²"]
    head += [f"Acquisition started on : {started}"] if started else []
    head = ["EC-Lab ASCII FILE", f"Nb header lines : {len(head) + 3}                          ", *head, names]
    lines = ["\t".join(w if isinstance(w, str) else f"{w:.15E}" for w in row) for row in rows]
    lines = [line.replace(".", ",") for line in lines] if comma else lines
    return "".join(line + end for line in head + lines).encode("latin-1")


def rows_of(n, period=5.0, current=10.0, step=1):
    return [[1.0, 1.0, float(step), i * period, 3.5 + 1e-3 * i, current, current * i * period / 3600, 0.0] for i in range(n)]


def fewer_points(content: bytes, rows: int) -> bytes:
    """A .mpr file of EC-Lab with only the first ``rows`` points in its data module, as it was earlier in the measurement."""
    module = content.find(b"MODULEVMP data")
    # from EC-Lab 11.50 on the largest length stands before the length
    long = content[module + 41 : module + 45] == b"\xff\xff\xff\xff"
    place, data = (module + 45, module + 65) if long else (module + 41, module + 57)
    (length,), (points,) = struct.unpack_from("<I", content, place), struct.unpack_from("<I", content, data)
    header = next(size for size in (1007, 406, 405, 100) if (length - size) % points == 0)
    kept = header + (length - header) // points * min(rows, points)
    small = struct.pack("<I", min(rows, points)) + content[data + 4 : data + kept]
    return content[:place] + struct.pack("<I", kept) + content[place + 4 : data] + small + content[data + length :]
