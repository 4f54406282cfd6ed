"""The engine's runtime: threads, memory, time to load, size of the library, and ten thousand runs.

    python benchmarks/engine_runtime.py [--parts PART ...] [--rounds N] [--fifo] [--json PATH] [--table]

ResNet-18, W8A8, one image, weights trained where the data pack has them. Its program is first compared with the
reference, integer for integer, in one thread and in two.

threads  time of a run in one thread over that in two, wall clock. Rounds are interleaved: each runs one, two, two and
         one for about 25 ms each; the number is the median over rounds of the ratio of a round. Other processes on the
         machine take from two threads more than from one, so the load average is stored with it, and the ratio of the
         least times, which a busy machine disturbs least.
first_runs
         of fresh processes whose modules are loaded, and that never saw the file; the system has it in memory. What
         their resident memory grows by from before the file is opened until behind the first run, without the pages of
         mapped files; and the time of that, on the wall clock and of the processor. Median and extreme of processes.
size     libdyadiq_engine.a as a shared library, and the program of docs/howto/c-library.md linked with it and with the
         C++ runtime, both without symbols; the same two of libraries that CMake builds for ResNet-18 alone, with the
         kernels of this machine's best instruction set and with portable ones; and the machine code of ResNet-20 as a C
         project, which has only the kernels that it calls
soak     10,000 runs of ten images in turn on one arena: integers that differ from those of the first runs, and what
         the resident memory grows by from the first hundred runs to the last. In one thread and in two.

Other processes disturb these times. `--fifo` measures before all of them (SCHED_FIFO, which needs the right to it); how
it was scheduled is stored. It pauses between measurements, since systems hold up what runs so without a break.

Writes benchmarks/results/engine_runtime.json, one entry a part; a run adds to what is there.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from arguments import parser_of, read_results, write_results
from engine_vs_peers import NETWORKS, build
from environment import environment

import dyadiq as dq
from dyadiq.core.plan import uniform_plan
from dyadiq.cost.facts import network_facts
from dyadiq.engine import EngineProgram, available_isas, compile_program, library_folder, write_engine_file
from dyadiq.ir.passes import canonicalize
from dyadiq.targets import get_target

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/engine_runtime.json"
NETWORK, SOAKED = "resnet18", "cifar_resnet20"
SLICE_SECONDS, PAUSE_SECONDS, N_RUNS, N_IMAGES, N_PROCESSES = 0.025, 0.5, 10_000, 10, 15

# In a process of its own: prints what memory grew by, in kB, and seconds to open and to run.
FIRST_RUN = """
import sys, time
import numpy as np
from dyadiq.core.native import native_state
from dyadiq.engine import EngineProgram
native_state()
image = np.load(sys.argv[2])

def resident():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))

before, start, busy = resident(), time.perf_counter(), time.process_time()
engine = EngineProgram(sys.argv[1], threads=int(sys.argv[3]))
opened = time.perf_counter()
engine.run({next(iter(engine.inputs)): image})
done, busy = time.perf_counter(), time.process_time() - busy
print(resident() - before, opened - start, done - opened, engine.arena_bytes, busy)
"""


def lowered(name):
    """The program of a network, random images, and whether its weights are trained."""
    model, trained = build(name)
    images = torch.randn(N_IMAGES, *NETWORKS[name], generator=torch.Generator().manual_seed(0))
    graph = dq.capture(model, images[:1])
    plan = uniform_plan(network_facts(canonicalize(graph)), 8, 8)
    return dq.lower(dq.quantize(graph, plan, [images[:4].numpy()])), images, trained


def compiled(name, folder, arguments):
    """The file of a network, its images, and the codes that the reference makes of the first."""
    program, images, trained = lowered(name)
    path = folder / f"{name}.dyqe"
    write_engine_file(compile_program(program), path)
    images = images.numpy()
    expected = dq.run_reference(program, {program.graph.inputs[0]: images[:1]})
    if arguments.fifo:  # before threads start, which inherit it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    engines = [EngineProgram(path, threads=threads) for threads in (1, 2)]
    for engine in engines:
        found = engine.run({program.graph.inputs[0]: images[:1]})
        assert all(np.array_equal(found[key], expected[key]) for key in expected), (
            "the engine differs from the reference"
        )
    return path, images, engines, trained


def threads(folder, arguments):
    _, images, engines, trained = compiled(NETWORK, folder, arguments)
    feed = {next(iter(engines[0].inputs)): images[:1]}

    def seconds(engine, n):
        start = time.perf_counter()
        for _ in range(n):
            engine.run(feed)
        return (time.perf_counter() - start) / n

    counts = [max(1, round(SLICE_SECONDS / min(seconds(engine, 1) for _ in range(10)))) for engine in engines]
    times = []
    for _ in range(arguments.rounds):
        a, b, c, d = (seconds(engines[i], counts[i]) for i in (0, 1, 1, 0))
        times.append(((a + d) / 2, (b + c) / 2))
        time.sleep(SLICE_SECONDS)
    one, two = np.array(times).T
    ratios = one / two
    return {
        "network": NETWORK,
        "weights": "trained" if trained else "random",
        "n_rounds": arguments.rounds,
        "speed_up": round(float(np.median(ratios)), 3),
        "speed_up_quartiles": [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))],
        "speed_up_of_least": round(float(one.min() / two.min()), 3),
        "least_us": [round(float(t.min() * 1e6), 1) for t in (one, two)],
        "median_us": [round(float(np.median(t) * 1e6), 1) for t in (one, two)],
    }


def first_runs(folder, arguments):
    path, images, _, _ = compiled(NETWORK, folder, arguments)
    np.save(folder / "image.npy", images[:1])
    found = {1: [], 2: []}
    for count in [1, 2] * N_PROCESSES:
        told = subprocess.run(
            [sys.executable, "-c", FIRST_RUN, str(path), str(folder / "image.npy"), str(count)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        found[count].append([float(word) for word in told.split()])
        time.sleep(PAUSE_SECONDS)
    grown, opened, run, arena, busy = np.array(found[1]).T
    total, two = opened + run, np.array(found[2])[:, 1:3].sum(axis=1)
    return {
        "network": NETWORK,
        "file_bytes": path.stat().st_size,
        "arena_bytes": int(arena[0]),
        "memory_bytes": round(float(np.median(grown)) * 1024),
        "memory_most_bytes": round(float(grown.max()) * 1024),
        "n_processes": N_PROCESSES,
        "load_to_result_ms": round(float(np.median(total)) * 1e3, 2),
        "load_to_result_least_ms": round(float(total.min()) * 1e3, 2),
        "load_to_result_cpu_ms": round(float(np.median(busy)) * 1e3, 2),
        "load_to_result_cpu_least_ms": round(float(busy.min()) * 1e3, 2),
        "load_to_result_two_threads_ms": round(float(np.median(two)) * 1e3, 2),
        "load_to_result_two_threads_least_ms": round(float(two.min()) * 1e3, 2),
        "load_ms": round(float(np.median(opened)) * 1e3, 2),
        "load_least_ms": round(float(opened.min()) * 1e3, 2),
    }


def size(folder, _):
    library = library_folder()
    write_engine_file(compile_program(lowered(NETWORK)[0]), folder / "program.dyqe")
    found = linked(folder, library / "libdyadiq_engine.a")
    for name, isa in (("small", available_isas()[-1]), ("portable", "portable")):
        options = [f"-DDYADIQ_PROGRAMS={folder / 'program.dyqe'}", f"-DDYADIQ_ISAS={isa}", "-DCMAKE_BUILD_TYPE=Release"]
        subprocess.run(["cmake", "-S", ROOT / "native/engine", "-B", folder / name, *options], check=True)
        subprocess.run(["cmake", "--build", folder / name], check=True)
        sizes = linked(folder, folder / name / "libdyadiq_engine.a")
        found |= {f"{name}_{key}": value for key, value in sizes.items()} | {f"{name}_isa": isa}
    return found | {"c_code_bytes": c_code_bytes(folder)}


def linked(folder, archive):
    """Bytes of a library as a shared one, and of the guide's program with it, both without symbols."""
    (source,) = re.findall(r"```c\n(.*?)```", (ROOT / "docs/howto/c-library.md").read_text(), re.DOTALL)
    (folder / "run.c").write_text(source)
    shared, program = folder / "engine.so", folder / "run"
    whole = ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive"]
    subprocess.run(["c++", "-shared", "-o", shared, *whole, "-lpthread"], check=True)
    smallest = ["-Wl,--gc-sections", "-static-libstdc++", "-static-libgcc"]
    objects = folder / "run.o"
    subprocess.run(["cc", "-O2", "-c", "-I", ROOT / "native/engine", folder / "run.c", "-o", objects], check=True)
    subprocess.run(["c++", *smallest, "-o", program, objects, archive, "-lpthread"], check=True)
    subprocess.run(["strip", shared, program], check=True)
    return {"library_bytes": shared.stat().st_size, "program_bytes": program.stat().st_size}


def c_code_bytes(folder):
    """Machine code of ResNet-20 as a C project: the kernels that it calls and no others; its weights are constants."""
    get_target("c").write(lowered(SOAKED)[0], folder / "c")
    subprocess.run(["cc", "-std=c99", "-Os", "-c", folder / "c/program.c", "-o", folder / "c.o"], check=True)
    told = subprocess.run(["size", "-A", "-d", folder / "c.o"], check=True, capture_output=True, text=True).stdout
    return sum(int(line.split()[1]) for line in told.splitlines() if line.startswith(".text"))


def soak(folder, arguments):
    _, images, engines, _ = compiled(SOAKED, folder, arguments)
    rows = []
    for engine in engines:
        feeds = [{next(iter(engine.inputs)): images[i : i + 1]} for i in range(N_IMAGES)]
        wanted = [engine.run(feed) for feed in feeds]
        differing, before = 0, None
        for run in range(N_RUNS):
            found = engine.run(feeds[run % N_IMAGES])
            differing += sum(int((found[key] != codes).sum()) for key, codes in wanted[run % N_IMAGES].items())
            if run == 100:
                before = resident_bytes()
        rows.append({"threads": engine.threads, "differing": differing, "growth_bytes": resident_bytes() - before})
    return {"network": SOAKED, "n_runs": N_RUNS, "rows": rows}


def resident_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def scheduler():
    """How the system schedules this process: `fifo` and `rr` run before all that is not."""
    policies = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_RR: "rr"}
    return policies.get(os.sched_getscheduler(0), "else")


PARTS = {"threads": threads, "first_runs": first_runs, "size": size, "soak": soak}


def table(document):
    """The rows of docs/validation.md."""
    t, f, s, k = (document[part] for part in PARTS)
    low, high = t["speed_up_quartiles"]
    soaked = ", ".join(f"{row['differing']} and {row['growth_bytes'] / 1024:.0f} kB" for row in k["rows"])
    return "\n".join(
        [
            "| what | measured | must |",
            "|---|---|---|",
            f"| two threads, speed-up over one | {t['speed_up']:.2f} ({low:.2f} to {high:.2f}); of the least times"
            f" {t['speed_up_of_least']:.2f} | 1.8 |",
            f"| memory beyond the mapped file of {f['file_bytes'] / 1e6:.1f} MB | {f['memory_bytes'] / 1e6:.2f} MB, at"
            f" most {f['memory_most_bytes'] / 1e6:.2f} (arena {f['arena_bytes'] / 1e6:.2f}) | 2 MB |",
            f"| load to first result | {f['load_to_result_ms']:.1f} ms, least {f['load_to_result_least_ms']:.1f}"
            f" (load alone {f['load_ms']:.1f}, {f['load_least_ms']:.1f}); in two threads"
            f" {f['load_to_result_two_threads_ms']:.1f}, {f['load_to_result_two_threads_least_ms']:.1f} | 10 ms |",
            f"| library without symbols | {s['library_bytes'] / 1e6:.2f} MB; a program with it and the C++ runtime"
            f" {s['program_bytes'] / 1e6:.2f} MB | 1 MB |",
            f"| the same, built for ResNet-18 alone: kernels of {s['small_isa']}; portable ones |"
            f" {s['small_library_bytes'] / 1e6:.2f} MB, {s['small_program_bytes'] / 1e6:.2f} MB;"
            f" {s['portable_library_bytes'] / 1e6:.2f} MB, {s['portable_program_bytes'] / 1e6:.2f} MB | |",
            f"| ResNet-20 as a C project (`--to c`, -Os): machine code, with the kernels that it calls and no others |"
            f" {s['c_code_bytes'] / 1e3:.1f} kB | |",
            f"| {k['n_runs']} runs of ResNet-20: integers that differ, growth; one thread, two | {soaked} | 0, 0 |",
        ]
    )


def main():
    parser = parser_of(__doc__, 41, RESULTS)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--fifo", action="store_true", help="measure before all other processes")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(read_results(arguments.json, {})))
        return
    torch.set_num_threads(1)
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            row = PARTS[part](folder, arguments) | {"kind": "measured", "scheduler": scheduler()}
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        document = read_results(arguments.json, {})
        document[part] = row | {"environment": environment()}
        write_results(arguments.json, document)
        print(part, row, flush=True)


if __name__ == "__main__":
    main()
