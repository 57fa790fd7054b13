"""`make bench`: every system under the same loads, in one run -> RESULTS.md and plots.

Run it as `python -m benchmarks.run` in the environment that the Makefile creates for it.
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
from benchmarks.inputs import image_files, make_videos, sentences
from benchmarks.limit import BenchmarkAppError, GraphCase, benchmark_app, preparation
from benchmarks.load import Request, ask_once, first_answer, image_requests, text_requests
from benchmarks.machine import describe, has_bf16
from benchmarks.measure import (
    FAILURES,
    ask_model,
    load_cell,
    measure_cases,
    measure_mixed_load,
    run,
    sample_vectors,
    video_request,
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
from benchmarks.targets import (
    BULK_CALLERS,
    BULK_ITEMS,
    GRAPH_OF,
    LATENCY,
    MIXED_LOAD,
    many,
    targets,
)
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.store import load_bundle
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors

LAST = CACHE / "last.json"
PACKAGES = ("openvino", "torch", "transformers", "sentence-transformers", "infinity-emb", "pillow")
PROFILE_SECONDS = 5.0
MIN_COSINE = 0.99
"""Between vectors of the same model, stored as float16 here and as float32 by the other systems."""
Cases = Sequence[tuple[str, Sequence[Request]]]


class Bench:
    """One run: every system under the same loads, one at a time, while the others are idle."""

    def __init__(self, plan: Plan, systems: Sequence[System]) -> None:
        self.plan, self.systems = plan, systems
        self.reference: Vectors | None = None
        for system in systems:
            system.prepare()
        CACHE.mkdir(exist_ok=True)
        self.clip, self.qwen = clip_checkpoint(), qwen_checkpoint(plan.qwen_layers)
        make_videos(plan.videos)
        for size in plan.sizes:
            image_files(size, plan.image_count)
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
                "Qwen3-Embedding-0.6B, for all systems."
            )
        self.first_text = text_requests(sentences(self.tokenizer, SHORT, 8))[0]

    def measure(self) -> Results:
        started = time.perf_counter()
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
        self.results.seconds = time.perf_counter() - started
        return self.results

    def convert(self) -> None:
        """Start this service once per model: the first start converts it."""
        for model in (self.clip, self.qwen):
            with serving(OURS, model) as server:
                elapsed = run(first_answer(server, self.first_text))
            print(
                f"{model.name}: first start, with conversion if needed: {elapsed:.1f} s", flush=True
            )

    def start_all(self, stack: ExitStack) -> list[tuple[Server, float]]:
        """Start all systems -> (server, seconds to its first vector) of each."""
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
                self.note_failure(system, "all cases", error)
            for case, reason in system.lacks.items():
                self.results.missing.append(Missing(system=system.name, case=case, reason=reason))
        return servers

    def describe(self, servers: Sequence[tuple[Server, float]], cases: Cases) -> None:
        """Record the facts of each system, after the loads."""
        for server, first in servers:
            try:
                if server.system is OURS:
                    self.results.model = {"name": self.clip.name, **ask_model(server)}
                sample = sample_vectors(server, [each[0] for _, each in cases])
                cosine, peak = self.compare(server.system, sample), peak_memory(server.pid)
                self.note_difference(server.system, "texts and images", cosine)
                self.results.starts.append(describe_start(server.system, first, peak, cosine))
            except FAILURES as error:
                self.note_failure(server.system, "its facts", error)

    def compare(self, system: System, sample: Vectors) -> float | None:
        """The lowest cosine to this service's vectors, which are kept when it is measured."""
        if system is OURS:
            self.reference = sample
        if system is OURS or self.reference is None:
            return None
        return float((sample * self.reference).sum(axis=1).min())

    def note_difference(self, system: System, case: str, cosine: float | None) -> None:
        """Say so if a system computes something else: its rates are then not comparable."""
        if cosine is not None and cosine < MIN_COSINE:
            self.results.notes.append(
                f"**{system.name} computes something else for {case}: the lowest cosine of its "
                f"vectors to this service's is {cosine:.3f}.**"
            )

    def measure_ours(self, cases: Mapping[str, Sequence[Request]]) -> None:
        """Measure this service only: how close it is to its limits, videos, mixed loads."""
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
            run(ask_once(server, video_request(self.plan.videos[0])))
            for number in range(self.plan.rounds):
                print(f"round {number + 1}", flush=True)
                self.round(paired, cases)
            for name, bulk in self.bulk_jobs():
                single = cases[text_case(SHORT)]
                seconds = self.plan.mixed_load_seconds
                load = measure_mixed_load(server, name, single, bulk, seconds)
                self.results.mixed_loads.append(load)

    def round(self, paired: Paired, cases: Mapping[str, Sequence[Request]]) -> None:
        try:
            for size in self.plan.sizes:
                case, paths = jpeg_case(size), image_files(size, self.plan.image_count)[:12]
                paired.images(case, cases[case], paths)
            for tokens in self.plan.text_lengths:
                paired.texts(text_case(tokens), self.many(tokens))
            paired.latency(text_case(SHORT), cases[text_case(SHORT)])
            for video in self.plan.videos:
                paired.video(video)
        except BenchmarkAppError as error:
            self.results.notes.append(str(error))

    def many(self, tokens: int) -> list[Request]:
        return text_requests(sentences(self.tokenizer, tokens), BULK_ITEMS)

    def bulk_jobs(self) -> list[tuple[str, list[Request]]]:
        """Requests that are large enough for bulk priority."""
        texts = text_requests(sentences(self.tokenizer, FULL), 128)
        photos = image_requests(image_files(self.plan.sizes[0], self.plan.image_count), 48)
        return [("128 texts per request", texts), ("48 images per request", photos)]

    def measure_limits(
        self, bundle: Bundle, graphs: Mapping[str, GraphCase], precision: str
    ) -> None:
        print("limits", flush=True)
        for graph in graphs.values():
            self.graph_rates(graph, self.plan.batches, precision)
        if self.qwen.is_dir():
            long = GraphCase(text_case(LONG), bundle_of(self.qwen).graph("text"), LONG)
            self.graph_rates(long, self.plan.batches[:1], precision)
        for size in self.plan.sizes:
            paths = image_files(size, self.plan.image_count)[:12]
            self.results.preparations.append(preparation(jpeg_case(size), paths, bundle))

    def graph_rates(self, graph: GraphCase, batches: Sequence[int], precision: str) -> None:
        for batch in batches:
            for hint in ("throughput", "latency"):
                try:
                    rate = benchmark_app(graph, batch, hint, self.plan.app_seconds, precision)
                except BenchmarkAppError as error:
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
                    self.note_difference(system, case.name, cosine)
                except FAILURES as error:
                    self.note_failure(system, case.name, error)
            callers, seconds = self.plan.qwen_callers, self.plan.seconds
            measure_cases(self.results, servers, [(case.name, requests)], callers, seconds)

    def profile(self, cases: Cases) -> None:
        """For each missed target, load this service again and sample its stacks."""
        missed = {each.key for each in targets(self.results) if each.met is False}
        loads: dict[str, tuple[Sequence[Request], int]] = {
            name: (requests, 8) for name, requests in cases
        }
        for tokens in self.plan.text_lengths:
            loads[many(text_case(tokens))] = (self.many(tokens), BULK_CALLERS)
        loads[LATENCY] = (cases[0][1], 1)
        keys = [key for key in (*loads, MIXED_LOAD) if key in missed]
        if not keys or OURS not in self.systems:
            return
        print("profiles of the missed targets", flush=True)
        with serving(OURS, self.clip) as server:
            run(first_answer(server, self.first_text))
            for key in keys:
                lines: list[str] = []
                # A mixed load takes longer: it includes an idle load and a warm-up.
                seconds = PROFILE_SECONDS * (4 if key == MIXED_LOAD else 1)
                with sampled(server.pid, seconds, lines):
                    if key == MIXED_LOAD:
                        self.beside_bulk(server)
                    else:
                        load_cell(server, key, *loads[key], PROFILE_SECONDS)
                self.results.profiles[key] = lines

    def beside_bulk(self, server: Server) -> None:
        """Repeat the bulk job that delayed single texts the most."""
        worst = max(self.results.mixed_loads, key=lambda each: each.busy[2] / each.idle[2]).bulk
        single = text_requests(sentences(self.tokenizer, SHORT))
        measure_mixed_load(server, worst, single, dict(self.bulk_jobs())[worst], PROFILE_SECONDS)

    def note_failure(self, system: System, case: str, error: BaseException) -> None:
        reason = str(error)[-400:] or repr(error)
        print(f"  {case}: {reason}", flush=True)
        self.results.missing.append(
            Missing(system=system.name, case=case, reason=reason.splitlines()[-1])
        )


def describe_start(system: System, first: float, peak: int, cosine: float | None) -> Start:
    versions = {name: system.version(name) for name in PACKAGES}
    return Start(
        system=system.name,
        about=system.about,
        first=first,
        peak_memory=peak,
        installed=system.installed_bytes(),
        versions={name: version for name, version in versions.items() if version},
        cosine=cosine,
    )


def bundle_of(checkpoint: Path) -> Bundle:
    """The bundle that this service has made of a checkpoint."""
    folder = Path(OURS.environ["EMBEDDING_OV_MODELS_DIR"])
    return load_bundle(Settings.from_env({}, model=str(checkpoint), models_dir=folder))


def write(results: Results, folder: Path) -> None:
    from benchmarks.plots import draw

    plots = draw(results, folder / "plots")
    images = "\n".join(f"![{each.stem}](plots/{each.name})" for each in plots)
    (folder / "RESULTS.md").write_text(f"{render(results)}\n{images}\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about five minutes")
    parser.add_argument("--only", help="comma-separated systems; default: all")
    parser.add_argument("--into", type=Path, help="folder for RESULTS.md")
    parser.add_argument("--again", action="store_true", help="render the results of the last run")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped, too
    # A quick run does not replace the results of a full one.
    folder = options.into or (CACHE if options.quick else HERE)
    if options.again:
        results = Results.load(LAST)
    else:
        names = options.only.split(",") if options.only else [each.name for each in SYSTEMS]
        systems = [each for each in SYSTEMS if each.name in names]
        results = Bench(QUICK if options.quick else WHOLE, systems).measure()
        results.save(LAST)
    write(results, folder)
    print(summary(results))
    print(f"\nwrote {folder / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
