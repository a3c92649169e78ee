"""How fast images are fetched and stored, against img2dataset on the same images, and whether memory stays flat.

10,000 JPEGs of 256 px from nginx on loopback, which answers for 50 addresses, so that limits and lanes have hosts to
work on. img2dataset runs with 2 processes of 32 threads each; ours is `cuvee ingest` on `local[2]` with every guard on:
addresses, robots.txt, opt-outs, limits per host, byte budget, verdicts of a published SHA-256. Both rates are images a
second from the start of the first shard to the end of the last, as img2dataset counts; `wall` is the whole command.
A ratio is the median of `ROUNDS`, each of the three after one another; the rates beside it are the best of each.

What bounds them is measured in each round too: `bare_client` in 2 processes, which does nothing with what it receives,
and the time that OpenCV takes to decode and encode an image, or to read it at an eighth of its size, by which an image
that is kept is known to be whole. The bounds are what these two alone would come to.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import yaml

from benchmarks import bare_client
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store

IMAGES, MANY, HOSTS, SIDE, ROUNDS = 10_000, 100_000, 50, 256, 5


ROOT = Path(__file__).parent.parent


_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; open_file_cache max=20000;
  types {{ image/jpeg jpg; }}
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen {port}; root {folder}/www; }}
}}
"""


_BASELINE = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], input_format="tsv", url_col="url", caption_col="caption",
             output_format="webdataset", output_folder=sys.argv[2], processes_count=2, thread_count=32,
             image_size=256, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=95,
             number_sample_per_shard=1250, enable_wandb=False, retries=0)
"""


def _draw(folder: Path) -> list[str]:
    """Write the JPEGs, about 20 kB each; return their SHA-256."""
    rng = np.random.default_rng(0)
    (folder / "i").mkdir(parents=True)
    sums = []
    for number in range(IMAGES):
        coarse = rng.integers(0, 255, (12, 12, 3), np.uint8)
        image = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image = np.clip(image + rng.integers(-12, 12, (SIDE, SIDE, 1), dtype=np.int16), 0, 255).astype(np.uint8)
        body = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        (folder / "i" / f"{number}.jpg").write_bytes(body)
        sums.append(hashlib.sha256(body).hexdigest())
    return sums


@contextmanager
def _served(folder: Path) -> Iterator[int]:
    """Serve `folder`/www by nginx; yield the port. Raises FileNotFoundError where there is no nginx."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise FileNotFoundError("no nginx; install it (Debian: nginx-light) and run `make bench` again")
    port = 18_000 + os.getpid() % 2_000
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port))
    server = subprocess.Popen([nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder)])
    try:
        time.sleep(1)
        if server.poll() is not None:
            raise OSError(f"nginx ended with {server.returncode}")
        yield port
    finally:
        server.terminate()
        server.wait()


def _baseline(folder: Path, port: int) -> dict[str, float]:
    lines = [f"http://127.0.0.{1 + n % HOSTS}:{port}/i/{n}.jpg\tcaption {n}" for n in range(IMAGES)]
    (folder / "urls.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n")
    (folder / "baseline.py").write_text(_BASELINE)
    out = folder / "img2dataset"
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    started = time.perf_counter()
    command = [sys.executable, str(folder / "baseline.py"), str(folder / "urls.tsv"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    wall = time.perf_counter() - started
    assert done.returncode == 0, done.stderr[-2000:]
    stats = [json.loads(path.read_text()) for path in out.glob("*_stats.json")]
    stored = sum(one["successes"] for one in stats)
    assert stored == IMAGES, f"img2dataset stored {stored} of {IMAGES}"
    seconds = max(one["end_time"] for one in stats) - min(one["start_time"] for one in stats)
    shutil.rmtree(out)
    return {"images_per_second": round(IMAGES / seconds), "wall": round(wall, 1)}


def _experiment(folder: Path, port: int, sums: list[str], images: int, mode: str) -> Path:
    name = f"{mode}-{images}"
    rows = [
        {"url": f"http://127.0.0.{1 + n % HOSTS}:{port}/i/{n % IMAGES}.jpg?v={n // IMAGES}", "caption": f"caption {n}"}
        | {"id": n, "sum": sums[n % IMAGES]}
        for n in range(images)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = yaml.safe_load((ROOT / "experiments/demo.yaml").read_text("utf-8"))
    columns = {"url": "url", "caption": "caption", "record_id": "id", "sha256": "sum"}
    options = {"kind": "jsonl", "columns": columns}
    source = {"format": "table", "files": [str(folder / f"{name}.jsonl")], "options": options}
    evaluation = folder / "evaluation"
    data |= {
        "web": None,
        "store": str(folder / f"store-{name}"),
        "sources": {"bench": source},
        "models": {},
        "signals": {"caption_v1": None},
        "filters": {"short": {"drop_when": {"short": "caption_v1.words < 1"}}},
        "mixtures": {"all": {}},
        "evaluation": {"reference": "one", "sets": {"one": str(evaluation)}},
        "report": {"filter": "short"},
    }
    data["training"] |= {"mixtures": ["all"], "model": str(ROOT / "experiments/models/resnet_64px")}
    data["ingest"] = {
        "allow": [f"127.0.0.0/8:{port}"],
        "per_host": {"at_once": 8, "per_second": 1000},
        "pairs_per_shard": 1250,
        "resize": {"mode": mode, "size": SIDE, "quality": 95},
    }
    (evaluation / "test").mkdir(parents=True, exist_ok=True)
    for file, text in (
        ("classnames.txt", "thing\n"),
        ("zeroshot_classification_templates.txt", "a {c}\n"),
        ("test/nshards.txt", "1\n"),
        ("test/0.tar", ""),
    ):
        (evaluation / file).write_text(text)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def _peak(process: "subprocess.Popen[Any]", peaks: dict[int, int]) -> None:
    """Keep the peak memory, in bytes, of the Python workers below `process` until it ends."""
    while process.poll() is None:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if b"jobs.spark.worker_daemon" not in (entry / "cmdline").read_bytes():
                    continue
                status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
                peaks[int(entry.name)] = int(status["VmHWM"].split()[0]) << 10
            except (OSError, ValueError, KeyError):
                continue
        time.sleep(0.25)


def _ours(folder: Path, port: int, sums: list[str], images: int, mode: str) -> dict[str, float]:
    experiment = _experiment(folder, port, sums, images, mode)
    store = folder / f"store-{mode}-{images}"
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli.main", "ingest", str(experiment)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    peaks: dict[int, int] = {}
    watcher = threading.Thread(target=_peak, args=(process, peaks), daemon=True)
    watcher.start()
    errors = process.communicate()[1]
    wall = time.perf_counter() - started
    watcher.join()
    assert process.returncode == 0, errors
    ledger = Ledger(Store(str(store)))
    [job] = ledger.jobs()
    assert job.rows["samples"] == images, job.rows
    assert job.facts["verdicts"] == {"match": images}, job.facts["verdicts"]
    shards = job.facts["shards"]
    seconds = max(one["started"] + one["seconds"] for one in shards) - min(one["started"] for one in shards)
    shutil.rmtree(store)
    return {
        "images_per_second": round(images / seconds),
        "wall": round(wall, 1),
        "peak_worker_bytes": max(peaks.values(), default=0),
    }


def _bare(port: int) -> dict[str, float]:
    return {"images_per_second": IMAGES / bare_client.main(port, HOSTS, IMAGES, 2)}


def _codec_seconds(folder: Path, images: int = 1000) -> tuple[float, float]:
    """Return the processor time by OpenCV alone, in seconds an image, of re-encoding it and of reading it whole."""
    bodies = [np.fromfile(folder / "i" / f"{number}.jpg", np.uint8) for number in range(images)]
    cv2.setNumThreads(1)
    started = time.process_time()
    for body in bodies:
        cv2.imencode(".jpg", cv2.imdecode(body, cv2.IMREAD_COLOR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    between = time.process_time()
    for body in bodies:
        cv2.imdecode(body, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return (between - started) / images, (time.process_time() - between) / images


def _rate(one: dict[str, float]) -> float:
    return one["images_per_second"]


def measure() -> dict[str, Any]:
    """Return the rates of img2dataset and of ours, with re-encoding and without, and the workers' peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # nginx's workers are another user
        sums = _draw(folder / "www")
        with _served(folder) as port:
            rounds = [
                (
                    _baseline(folder, port),
                    _ours(folder, port, sums, IMAGES, "keep_ratio"),
                    _ours(folder, port, sums, IMAGES, "none"),
                    _bare(port),
                )
                for _ in range(ROUNDS)
            ]
            many = _ours(folder, port, sums, MANY, "none")
        encoding, reading = _codec_seconds(folder / "www")
    base, again, kept, bare = (max(each, key=_rate) for each in zip(*rounds, strict=True))
    reencoded, as_they_came = ([_rate(one[kind]) / _rate(one[0]) for one in rounds] for kind in (1, 2))
    bounds = [
        median(1 / (1 / _rate(one[3]) + seconds / 2) / _rate(one[0]) for one in rounds)
        for seconds in (encoding, reading)
    ]
    return {
        "ingest_against_img2dataset": {
            "images": IMAGES,
            "img2dataset": base,
            "reencoded": again,
            "as_they_came": kept,
            "ratio_reencoded": round(median(reencoded), 3),
            "ratio_as_they_came": round(median(as_they_came), 3),
            "bare_client_images_per_second": round(_rate(bare)),
            "codec_seconds_an_image": {"reencoding": round(encoding, 6), "reading": round(reading, 6)},
            "bound_reencoded": round(bounds[0], 3),
            "bound_as_they_came": round(bounds[1], 3),
            "ratio_reencoded_of_each_round": [round(ratio, 3) for ratio in reencoded],
            "ratio_as_they_came_of_each_round": [round(ratio, 3) for ratio in as_they_came],
        },
        "ingest_memory": {
            "images": [IMAGES, MANY],
            "peak_worker_bytes": [kept["peak_worker_bytes"], many["peak_worker_bytes"]],
            "ratio": round(many["peak_worker_bytes"] / kept["peak_worker_bytes"], 3),
            "images_per_second": many["images_per_second"],
        },
    }
