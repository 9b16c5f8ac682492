import subprocess
import sys

SIDE_BY_SIDE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from tiled.storage import EmbeddedSQLStorage
import operandi.server.exporters

storage = EmbeddedSQLStorage(sys.argv[1])

def ask(query, fetch=False):
    with closing(storage.connect()) as connection:
        with connection.cursor() as cursor:
            cursor.execute(query)
            rows = cursor.fetch_arrow_table().num_rows if fetch else None
        connection.commit()
    return rows

ask("CREATE TABLE steps (step BIGINT)")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda i: ask("SELECT * FROM steps", True) if i % 4 else ask(f"INSERT INTO steps VALUES ({i})"), range(800)))
print(ask("SELECT * FROM steps", True))
"""


def test_many_clients_read_a_table_while_it_grows(tmp_path):
    # In a process of its own: without its connections for each request Tiled ends it by a segmentation fault.
    done = subprocess.run(
        [sys.executable, "-c", SIDE_BY_SIDE, f"duckdb:///{tmp_path}/tables.duckdb"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")
