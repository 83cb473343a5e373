// Fences: what the library costs beside the same work in raw system calls.
//   fences            Google Benchmark: times, of which only the ratios in one run say anything (--help)
//   fences --count    instructions, in tests/lab/run --icount; fails where the library costs more than 3% more
#include "count.hpp"
#include "fence_operations.hpp"

#include <benchmark/benchmark.h>

#include <string>
#include <string_view>

namespace {

/// A batch of runs; what they use up is made while the clock stands.
void time_way(benchmark::State& state, const bench::Way& way, int batch) {
  while (state.KeepRunningBatch(batch)) {
    state.PauseTiming();
    if (way.prepare) way.prepare(batch);
    state.ResumeTiming();
    way.run(batch);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool count = argc == 2 && std::string_view(argv[1]) == "--count";
  if (!count) benchmark::Initialize(&argc, argv);
  if (!count && benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto operations = bench::fence_operations();
  if (count) return bench::count_instructions(operations, 1.03) ? 0 : 1;

  for (const bench::Operation& operation : operations) {
    for (const bench::Way& way : operation.ways) {
      benchmark::RegisterBenchmark((operation.name + "/" + way.name).c_str(),
                                   [&](benchmark::State& state) { time_way(state, way, operation.batch); });
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
