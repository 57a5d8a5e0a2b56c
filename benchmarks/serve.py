"""What does serving cost, and what do clients at once gain? The real server on loopback, with a finished model.

    python benchmarks/serve.py --model outputs/demo/model
    python benchmarks/serve.py --model outputs/demo/model --soak 10000

Clients at once against the same requests one after another, in turns; the first unfinished picture of a stream against
the whole. A soak sends mixed requests, 5% of which the client leaves and 5% of which are malformed, checks a sample of
the answers by their seed against the pipeline, and the memory of the server after its first tenth.
"""

import base64
import io
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
from measure import Report, Spread, choose, in_turns, parser, ratio
from PIL import Image

from vqlm.lm import TextToImagePipeline

PROMPTS = ("red heart", "blue car", "green apple", "house", "a dog", "yellow star", "cat", "flag")
MIX = (
    {},
    {"guidance_scale": 1.0},
    {"temperature": 1.0},
    {"guidance_schedule": "cosine"},
    {"top_k": 20},
    {"n": 2, "temperature": 0.5},
)
MALFORMED = (
    {"prompt": ""},
    {"prompt": "red", "n": 11},
    {},
    {"prompt": "red", "sead": 1},
    {"prompt": "red", "top_p": 0},
)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder that train_lm.py finished")
    options.add_argument("--soak", type=int, help="requests of the soak; by default 300, with --quick 60, --tiny 20")
    options.add_argument("--clients", type=int, default=16, help="clients at once")
    options = options.parse_args(arguments)
    rounds, requests, soak = choose(options, (5, 64, 300), (3, 32, 60), (1, 16, 20))
    report = Report("serve", __doc__, options)
    with Server(options.model) as server:
        measure_throughput(report, server, rounds, requests, options.clients)
        measure_first_picture(report, server, 3 * rounds)
        measure_page(report, server, TextToImagePipeline.from_pretrained(options.model, "cpu"), 3 * rounds)
        measure_soak(report, server, options.model, options.soak or soak, options.clients)
    return report.save()


class Server:
    """`vqlm serve` in a process of its own."""

    def __init__(self, model: Path):
        command = [sys.executable, "-m", "vqlm", "serve", "--model", str(model), "--port", "0", "--timeout", "600"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.url = self._address()
        self.http = httpx.Client(base_url=f"{self.url}/v1/images", timeout=600, limits=httpx.Limits(max_connections=99))

    def _address(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "running on " in line:
                threading.Thread(target=self.process.stderr.read, daemon=True).start()  # or its pipe would be full
                return line.partition("running on ")[2].split()[0]
        sys.exit("the server did not start")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        self.process.wait()

    def draw(self, body: dict[str, Any]) -> httpx.Response:
        return self.http.post("/generations", json=body)

    def megabytes(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def request_of(number: int) -> dict[str, Any]:
    return {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number}


def measure_throughput(report: Report, server: Server, rounds: int, requests: int, clients: int) -> None:
    latencies: dict[str, list[float]] = {"one": [], "many": []}

    def timed(name: str, number: int) -> None:
        start = time.perf_counter()
        server.draw(request_of(number)).raise_for_status()
        latencies[name].append(time.perf_counter() - start)

    def one_by_one() -> float:
        few = requests // 4  # it takes long, and each is like the others
        start = time.perf_counter()
        for number in range(few):
            timed("one", number)
        return (time.perf_counter() - start) / few

    def at_once() -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda number: timed("many", number), range(requests)))
        return (time.perf_counter() - start) / requests

    times = in_turns({"one": one_by_one, "many": at_once}, rounds)
    many = f"{clients} clients at once"
    table = report.table("Throughput", ["", "pictures/s", "times as fast", "95th percentile, s", "times one alone"])
    alone = statistics.median(latencies["one"])
    for name, title in (("one", "one after another"), ("many", many)):
        late = statistics.quantiles(latencies[name], n=20)[-1]
        speed = Spread.of(1 / seconds for seconds in times[name])
        table.row(title, speed, ratio(times["one"], times[name]), late, late / alone)


def measure_first_picture(report: Report, server: Server, rounds: int) -> None:
    def stream() -> tuple[float, float]:
        start, times = time.perf_counter(), []
        body = {"prompt": PROMPTS[0], "stream": True, "partial_images": 3}
        with server.http.stream("POST", "/generations", json=body) as answer:
            times = [time.perf_counter() - start for line in answer.iter_lines() if line.startswith("data: ")]
        return times[0], times[-1]

    stream()
    pairs = [stream() for _ in range(rounds)]
    table = report.table("A stream with 3 unfinished pictures", ["first, s", "finished, s", "first / finished"])
    first, last = ([pair[number] for pair in pairs] for number in (0, 1))
    table.row(Spread.of(first), Spread.of(last), ratio(first, last))


def measure_page(report: Report, server: Server, pipe: TextToImagePipeline, rounds: int) -> None:
    """What the page asks for one picture, which it shows row by row, against the pipeline in this process."""

    def page() -> None:
        body = {"prompt": PROMPTS[0], "n": 1, "seed": 0, "stream": True, "partial_rows": True}
        with server.http.stream("POST", "/generations", json=body) as answer:
            list(answer.iter_lines())

    times = in_turns({"page": page, "pipe()": lambda: pipe(PROMPTS[0], generator=0)}, rounds)
    table = report.table("One picture on the page", ["", "s", "times pipe()"])
    for name, seconds in times.items():
        table.row(name, Spread.of(seconds), ratio(seconds, times["pipe()"]))


def measure_soak(report: Report, server: Server, model: Path, count: int, clients: int) -> None:
    answers: dict[int, str] = {}
    memory: list[float] = []
    outcomes = {"drawn": 0, "left": 0, "malformed": 0, "wrong": 0}
    lock = threading.Lock()

    def ask(number: int) -> None:
        kind = number % 20
        if kind == 7:
            with server.http.stream("POST", "/generations", json={**request_of(number), "stream": True}):
                outcome = "left"
        elif kind == 13:
            status = server.draw(MALFORMED[number // 20 % len(MALFORMED)]).status_code
            outcome = "malformed" if 400 <= status < 500 else "wrong"
        else:
            answer = server.draw({**request_of(number), **MIX[number % len(MIX)]})
            outcome = "drawn" if answer.status_code == 200 else "wrong"
            if outcome == "drawn" and number % max(1, count // 500) == 0:
                with lock:
                    answers[number] = answer.text
        with lock:
            outcomes[outcome] += 1
            if sum(outcomes.values()) % max(1, count // 50) == 0:
                memory.append(server.megabytes())

    numbers = list(range(count))
    random.Random(0).shuffle(numbers)
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, numbers))
    pipe = TextToImagePipeline.from_pretrained(model, "cpu")
    differing = sum(not is_right(pipe, number, answer) for number, answer in answers.items())
    after = memory[len(memory) // 10 :]
    table = report.table(
        "Soak",
        ["requests", *outcomes, "checked by seed", "differing", "memory after a tenth, MB", "at the end, MB", "growth"],
    )
    table.row(count, *outcomes.values(), len(answers), differing, after[0], after[-1], after[-1] / after[0] - 1)


def is_right(pipe: TextToImagePipeline, number: int, answer: str) -> bool:
    """Whether the pictures of the answer are those that the pipeline draws with the same seed."""
    given = {**request_of(number), **MIX[number % len(MIX)]}
    count, seed = given.pop("n", 1), given.pop("seed")
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    expected = pipe(given.pop("prompt"), num_images_per_prompt=count, generator=generators, **given).images
    data = json.loads(answer)["data"]
    drawn = [Image.open(io.BytesIO(base64.b64decode(datum["b64_json"]))) for datum in data]
    return [picture.tobytes() for picture in drawn] == [picture.tobytes() for picture in expected]


if __name__ == "__main__":
    main()
