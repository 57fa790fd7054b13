"""`make bench`: every system under the same loads, in one run -> RESULTS.md and plots.

Run it as `python -m benchmarks.run` in the environment that the Makefile makes for it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.checkpoints import QWEN_LAYERS, clip_checkpoint, qwen_checkpoint
from benchmarks.figures import Missing, Results, Start
from benchmarks.inputs import films, pictures, sentences
from benchmarks.limit import GraphCase, NoFigure, benchmark_app, preparation
from benchmarks.load import Request, ask_once, first_answer, image_requests, text_requests
from benchmarks.machine import describe, has_bf16
from benchmarks.measure import (
    FAILURES,
    ask_model,
    film_request,
    load_cell,
    measure_cases,
    measure_lanes,
    run,
    sample_vectors,
)
from benchmarks.pairs import Paired
from benchmarks.places import CACHE, HERE
from benchmarks.plan import (
    FULL,
    LONG,
    QUICK,
    SHORT,
    WHOLE,
    Plan,
    clip_cases,
    jpeg_case,
    qwen_case,
    text_case,
)
from benchmarks.processes import Server, peak_memory, serving
from benchmarks.report import render, summary
from benchmarks.sampling import sampled
from benchmarks.systems import OURS, SYSTEMS, System
from benchmarks.targets import BULK_ITEMS, BULK_LANES, GRAPH_OF, LANES, LATENCY, many, targets
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.store import load_bundle
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors

LAST = CACHE / "last.json"
PACKAGES = ("openvino", "torch", "transformers", "sentence-transformers", "infinity-emb", "pillow")
PROFILE_SECONDS = 5.0
ALIKE = 0.99
"""The least cosine of the same model's vectors, stored in float16 here and float32 there."""
Cases = Sequence[tuple[str, Sequence[Request]]]


class Bench:
    """One run: every system under the same loads, one after the other, the others idle."""

    def __init__(self, plan: Plan, systems: Sequence[System]) -> None:
        self.plan, self.systems = plan, systems
        self.reference: Vectors | None = None
        for system in systems:
            system.prepare()
        CACHE.mkdir(exist_ok=True)
        self.clip, self.qwen = clip_checkpoint(), qwen_checkpoint(plan.qwen_layers)
        films(plan.films)
        for size in plan.sizes:
            pictures(size, plan.picture_count)
        self.tokenizer = self.clip / "tokenizer.json"
        self.results = Results(machine=describe(), quick=plan.quick, model={})
        if not has_bf16(self.results.machine):
            self.results.notes.append(
                "This CPU computes in float32 only; the targets against the peers were set for "
                "one that computes in bfloat16 natively."
            )
        if plan.qwen_layers < QWEN_LAYERS:
            self.results.notes.append(
                f"{text_case(LONG)}: the first {plan.qwen_layers} of the {QWEN_LAYERS} layers of a "
                "Qwen3-Embedding-0.6B; all systems alike."
            )
        self.first_text = text_requests(sentences(self.tokenizer, SHORT, 8))[0]

    def measure(self) -> Results:
        begun = time.perf_counter()
        cases = [(case.name, case.requests()) for case in clip_cases(self.plan, self.tokenizer)]
        if OURS in self.systems:
            self.convert()
        with ExitStack() as stack:
            servers = self.start_all(stack)
            callers, seconds = self.plan.callers, self.plan.seconds
            measure_cases(self.results, [each for each, _ in servers], cases, callers, seconds)
            self.describe(servers, cases)
        if OURS in self.systems:
            self.measure_ours(dict(cases))
        self.measure_long()
        self.profile(cases)
        self.results.seconds = time.perf_counter() - begun
        return self.results

    def convert(self) -> None:
        """The first start of this service converts the folder by itself."""
        for model in (self.clip, self.qwen):
            with serving(OURS, model) as server:
                taken = run(first_answer(server, self.first_text))
            print(f"{model.name}: a first start, maybe converting, takes {taken:.1f} s", flush=True)

    def start_all(self, stack: ExitStack) -> list[tuple[Server, float]]:
        """The systems' servers, and the seconds to the first vector of each: this one's first."""
        servers = []
        for system in self.systems:
            print(f"{system.name}: {system.about}", flush=True)
            try:
                if self.plan.warm_starts and system is not OURS:
                    with serving(system, self.clip) as server:
                        run(first_answer(server, self.first_text))
                server = stack.enter_context(serving(system, self.clip))
                first = run(first_answer(server, self.first_text))
                servers.append((server, first))
                print(f"  first vector after {first:.2f} s", flush=True)
            except FAILURES as error:
                self.fail(system, "everything", error)
            for case, reason in system.lacks.items():
                self.results.missing.append(Missing(system=system.name, case=case, reason=reason))
        return servers

    def describe(self, servers: Sequence[tuple[Server, float]], cases: Cases) -> None:
        """What can be said of each once it has been loaded."""
        for server, first in servers:
            try:
                if server.system is OURS:
                    self.results.model = {"name": self.clip.name, **ask_model(server)}
                found = sample_vectors(server, [each[0] for _, each in cases])
                cosine, peak = self.compare(server.system, found), peak_memory(server.pid)
                self.doubt(server.system, "texts and pictures", cosine)
                self.results.starts.append(describe_start(server.system, first, peak, cosine))
            except FAILURES as error:
                self.fail(server.system, "its description", error)

    def compare(self, system: System, found: Vectors) -> float | None:
        """The least cosine to this service's vectors, which are kept when it is measured."""
        if system is OURS:
            self.reference = found
        if system is OURS or self.reference is None:
            return None
        return float((found * self.reference).sum(axis=1).min())

    def doubt(self, system: System, case: str, cosine: float | None) -> None:
        """Rates of other work are no rates of this: say so."""
        if cosine is not None and cosine < ALIKE:
            self.results.notes.append(
                f"**{system.name} does not compute the same of {case}: its least cosine to this "
                f"service's vectors is {cosine:.3f}.**"
            )

    def measure_ours(self, cases: Mapping[str, Sequence[Request]]) -> None:
        """What only this service is asked for: how near its limits it is, videos, lanes."""
        bundle, precision = bundle_of(self.clip), str(self.results.model.get("inference", "f32"))
        texts = [
            GraphCase(text_case(tokens), bundle.graph("text"), tokens)
            for tokens in self.plan.text_lengths
        ]
        graphs = {each.name: each for each in (GraphCase(GRAPH_OF, bundle.graph("image")), *texts)}
        self.measure_limits(bundle, graphs, precision)
        with serving(OURS, self.clip) as server:
            run(first_answer(server, self.first_text))
            paired = Paired(
                results=self.results,
                server=server,
                bundle=bundle,
                graphs=graphs,
                precision=precision,
                seconds=self.plan.seconds,
                app_seconds=self.plan.app_seconds,
            )
            run(ask_once(server, film_request(self.plan.films[0])))
            for number in range(self.plan.rounds):
                print(f"round {number + 1}", flush=True)
                self.round(paired, cases)
            for name, bulk in self.bulk_jobs():
                single = cases[text_case(SHORT)]
                lanes = measure_lanes(server, name, single, bulk, self.plan.lane_seconds)
                self.results.lanes.append(lanes)

    def round(self, paired: Paired, cases: Mapping[str, Sequence[Request]]) -> None:
        try:
            for size in self.plan.sizes:
                case, some = jpeg_case(size), pictures(size, self.plan.picture_count)[:12]
                paired.pictures(case, cases[case], some)
            for tokens in self.plan.text_lengths:
                paired.texts(text_case(tokens), self.many(tokens))
            paired.latency(text_case(SHORT), cases[text_case(SHORT)])
            for film in self.plan.films:
                paired.video(film)
        except NoFigure as error:
            self.results.notes.append(str(error))

    def many(self, tokens: int) -> list[Request]:
        return text_requests(sentences(self.tokenizer, tokens), BULK_ITEMS)

    def bulk_jobs(self) -> list[tuple[str, list[Request]]]:
        """Requests that go to the bulk lane."""
        texts = text_requests(sentences(self.tokenizer, FULL), 128)
        photos = image_requests(pictures(self.plan.sizes[0], self.plan.picture_count), 48)
        return [("128 texts per request", texts), ("48 images per request", photos)]

    def measure_limits(
        self, bundle: Bundle, graphs: Mapping[str, GraphCase], precision: str
    ) -> None:
        print("the limits", flush=True)
        for graph in graphs.values():
            self.graph_rates(graph, self.plan.batches, precision)
        if self.qwen.is_dir():
            long = GraphCase(text_case(LONG), bundle_of(self.qwen).graph("text"), LONG)
            self.graph_rates(long, self.plan.batches[:1], precision)
        for size in self.plan.sizes:
            some = pictures(size, self.plan.picture_count)[:12]
            self.results.preparations.append(preparation(jpeg_case(size), some, bundle))

    def graph_rates(self, graph: GraphCase, batches: Sequence[int], precision: str) -> None:
        for batch in batches:
            for hint in ("throughput", "latency"):
                try:
                    rate = benchmark_app(graph, batch, hint, self.plan.app_seconds, precision)
                except NoFigure as error:
                    self.results.notes.append(str(error))
                    continue
                self.results.graphs.append(rate)
                print(f"  {graph.name:18} batch {batch:2} {hint:10} {rate.rate:8.1f}", flush=True)

    def measure_long(self) -> None:
        case = qwen_case()
        requests = case.requests()
        with ExitStack() as stack:
            servers = []
            for system in self.systems:
                if case.name in system.lacks:
                    continue
                try:
                    server = stack.enter_context(serving(system, self.qwen))
                    run(first_answer(server, requests[0]))
                    servers.append(server)
                    cosine = self.compare(system, sample_vectors(server, requests[:4]))
                    print(f"  {case.name} by {system.name}, cosine {cosine}", flush=True)
                    self.doubt(system, case.name, cosine)
                except FAILURES as error:
                    self.fail(system, case.name, error)
            callers, seconds = self.plan.qwen_callers, self.plan.seconds
            measure_cases(self.results, servers, [(case.name, requests)], callers, seconds)

    def profile(self, cases: Cases) -> None:
        """Load this service once more for each target missed, and sample it."""
        missed = {each.key for each in targets(self.results) if each.met is False}
        loads: dict[str, tuple[Sequence[Request], int]] = {
            name: (requests, 8) for name, requests in cases
        }
        for tokens in self.plan.text_lengths:
            loads[many(text_case(tokens))] = (self.many(tokens), BULK_LANES)
        loads[LATENCY] = (cases[0][1], 1)
        wanted = [key for key in (*loads, LANES) if key in missed]
        if not wanted or OURS not in self.systems:
            return
        print("profiles of the targets missed", flush=True)
        with serving(OURS, self.clip) as server:
            run(first_answer(server, self.first_text))
            for key in wanted:
                lines: list[str] = []
                seconds = PROFILE_SECONDS * (4 if key == LANES else 1)  # idle and warming up, too
                with sampled(server.pid, seconds, lines):
                    if key == LANES:
                        self.beside_bulk(server)
                    else:
                        load_cell(server, key, *loads[key], PROFILE_SECONDS)
                self.results.profiles[key] = lines

    def beside_bulk(self, server: Server) -> None:
        """The job that kept single texts waiting longest, again."""
        worst = max(self.results.lanes, key=lambda each: each.busy[2] / each.idle[2]).bulk
        single = text_requests(sentences(self.tokenizer, SHORT))
        measure_lanes(server, worst, single, dict(self.bulk_jobs())[worst], PROFILE_SECONDS)

    def fail(self, system: System, case: str, error: BaseException) -> None:
        reason = str(error)[-400:] or repr(error)
        print(f"  {case}: {reason}", flush=True)
        self.results.missing.append(
            Missing(system=system.name, case=case, reason=reason.splitlines()[-1])
        )


def describe_start(system: System, first: float, peak: int, cosine: float | None) -> Start:
    found = {name: system.version(name) for name in PACKAGES}
    return Start(
        system=system.name,
        about=system.about,
        first=first,
        peak_memory=peak,
        installed=system.installed_bytes(),
        versions={name: version for name, version in found.items() if version},
        cosine=cosine,
    )


def bundle_of(checkpoint: Path) -> Bundle:
    """What this service has converted a checkpoint to."""
    folder = Path(OURS.environ["EMBEDDING_OV_MODELS_DIR"])
    return load_bundle(Settings.from_env({}, model=str(checkpoint), models_dir=folder))


def write(results: Results, folder: Path) -> None:
    from benchmarks.plots import draw

    plots = draw(results, folder / "plots")
    pictures_shown = "\n".join(f"![{each.stem}](plots/{each.name})" for each in plots)
    (folder / "RESULTS.md").write_text(f"{render(results)}\n{pictures_shown}\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about five minutes")
    parser.add_argument("--only", help="systems, by comma; default: all")
    parser.add_argument("--into", type=Path, help="where RESULTS.md goes")
    parser.add_argument("--again", action="store_true", help="render the last run's figures")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended too
    # A quick run does not take the place of a whole one.
    folder = given.into or (CACHE if given.quick else HERE)
    if given.again:
        results = Results.load(LAST)
    else:
        names = given.only.split(",") if given.only else [each.name for each in SYSTEMS]
        chosen = [each for each in SYSTEMS if each.name in names]
        results = Bench(QUICK if given.quick else WHOLE, chosen).measure()
        results.save(LAST)
    write(results, folder)
    print(summary(results))
    print(f"\nwritten: {folder / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
