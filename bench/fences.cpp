// Fences: the library's cost, compared with the same work in raw system calls.
//   fences            Google Benchmark: times, of which only the ratios within one run are meaningful (--help)
//   fences --count [--json FILE]   instructions, in tests/lab/run --icount; fails if the library costs over 3% more
#include "count.hpp"
#include "enlist_way.hpp"
#include "fence_operations.hpp"

#include <benchmark/benchmark.h>

#include <string>

namespace {

/// Times batches of runs. What they consume is made while the clock is paused.
void time_way(benchmark::State& state, const bench::Way& way, int batch) {
  while (state.KeepRunningBatch(batch)) {
    state.PauseTiming();
    if (way.prepare) way.prepare(batch);
    state.ResumeTiming();
    way.run(batch);
  }
}

int count(const bench::CountOptions& options) {
  bench::CountLog log{.program = "fences", .counted = "process"};
  const bool is_good = bench::count_instructions(bench::fence_operations(), 1.03, bench::Counted::process, &log);
  log.write(options.json);
  return is_good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (const auto options = bench::parse_count(argc, argv)) return count(*options);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto operations = bench::fence_operations();
  for (const bench::Operation& operation : operations) {
    for (const bench::Way& way : operation.ways) {
      bench::enlist_way(operation, way, [&](benchmark::State& state) { time_way(state, way, operation.batch); });
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
