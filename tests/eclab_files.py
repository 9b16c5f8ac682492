"""Text files as EC-Lab writes them, for tests."""

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
