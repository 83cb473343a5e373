// Memory: the cost of allocating, importing, lending and accessing it, compared with the same work in raw calls.
//   memory            Google Benchmark: times, of which only the ratios within one run are meaningful (--help)
//   memory --count [--json FILE] [BEGINNING]   instructions of the calling thread, in tests/lab/run --icount; the small
//                     sizes, no bandwidths; only operations whose names begin with BEGINNING
// Whatever the machine lacks is reported in one line each and left out.
#include "call_counter.hpp"
#include "count.hpp"
#include "enlist_way.hpp"
#include "memory_operations.hpp"

#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <ctime>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/resource.h>

namespace bench {
namespace {

void add(std::vector<Operation>& all, std::vector<Operation> more) {
  all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

int count(const Machine& machine, const CountOptions& options, std::string_view beginning) {
  constexpr std::array sizes{kib64, mib1};
  std::vector<Operation> operations = allocations(machine, sizes);
  add(operations, allocation_steps(machine, std::span(sizes).last(1)));
  add(operations, imports(machine));
  add(operations, holds(machine));
  add(operations, accesses(machine));
  std::erase_if(operations, [&](const Operation& one) { return !one.name.starts_with(beginning); });
  CountLog log{.program = "memory", .counted = "thread"};
  show_instructions(operations, Counted::thread, &log);
  log.write(options.json);
  return 0;
}

// --- Times -----------------------------------------------------------------------------------------------------------

/// The exact counts of one run, determined once for each way.
struct Exact {
  double calls = 0;        // system calls of this thread
  double allocations = 0;  // calls of operator new, in all threads
};

Exact exact_cost(const Way& way, int batch, const CallCounter& calls) {
  if (way.prepare) way.prepare(batch);
  way.run(batch);  // does what is done only the first time
  if (way.prepare) way.prepare(batch);
  const double calls_before = calls ? calls.now() : 0;
  const std::size_t allocations_before = heap_allocations();
  way.run(batch);
  const std::size_t allocations = heap_allocations() - allocations_before;
  const double made = calls ? calls.now() - calls_before - 1 : 0;  // minus the reading itself
  return {.calls = made / batch, .allocations = static_cast<double>(allocations) / batch};
}

/// CPU time of the calling thread, in microseconds. The kernel splits it by its ticks, which is right on average.
struct Cpu {
  double user = 0;
  double kernel = 0;
};

Cpu cpu_time() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);  // updates the accounting, which getrusage() does not
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto microseconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  };
  return {.user = microseconds(usage.ru_utime), .kernel = microseconds(usage.ru_stime)};
}

/// Times batches of runs. What they consume is made while the clock is paused.
void time_way(benchmark::State& state, const Operation& operation, const Way& way, const CallCounter& calls) {
  static std::map<const Way*, Exact> known;
  const auto found = known.find(&way);
  const Exact exact =
      found != known.end() ? found->second : known.emplace(&way, exact_cost(way, operation.batch, calls)).first->second;
  Cpu used;
  while (state.KeepRunningBatch(operation.batch)) {
    state.PauseTiming();
    if (way.prepare) way.prepare(operation.batch);
    const Cpu before = cpu_time();
    state.ResumeTiming();
    way.run(operation.batch);
    state.PauseTiming();
    const Cpu after = cpu_time();
    used.user += after.user - before.user;
    used.kernel += after.kernel - before.kernel;
    state.ResumeTiming();
  }
  using benchmark::Counter;
  state.counters["user_us"] = Counter(used.user, Counter::kAvgIterations);
  state.counters["kernel_us"] = Counter(used.kernel, Counter::kAvgIterations);
  if (calls) state.counters["system_calls"] = exact.calls;
  state.counters["heap_allocations"] = exact.allocations;
  if (operation.bytes != 0) {
    state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(operation.bytes));
  }
}

/// Registers them with Google Benchmark. @p batches: the number of batches; 0: Google Benchmark decides.
void enlist(const std::vector<Operation>& operations, const CallCounter& calls, int batches) {
  for (const Operation& operation : operations) {
    for (const Way& way : operation.ways) {
      auto* const entry =
          bench::enlist_way(operation, way, [&](benchmark::State& state) { time_way(state, operation, way, calls); });
      entry->Unit(benchmark::kMicrosecond);
      if (batches > 0) entry->Iterations(std::int64_t{batches} * operation.batch);
    }
  }
}

void time(const Machine& machine) {
  constexpr std::array sizes{kib64, mib1, full_hd, ultra_hd};
  std::vector<Operation> operations = allocations(machine, sizes);
  add(operations, imports(machine));
  add(operations, holds(machine));
  add(operations, accesses(machine));
  add(operations, bandwidths(machine));
  constexpr std::array step_sizes{kib64, full_hd};
  const std::vector<Operation> steps = allocation_steps(machine, step_sizes);
  const CallCounter calls;
  if (!calls) leave_out("system calls", calls.why());
  enlist(operations, calls, 0);
  enlist(steps, calls, 2);  // each takes far longer to prepare than to run
  benchmark::RunSpecifiedBenchmarks();
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  std::string_view beginning;
  if (argc > 2 && !std::string_view(argv[argc - 1]).starts_with("--") && std::string_view(argv[argc - 2]) != "--json") {
    beginning = argv[--argc];
  }
  const auto count = bench::parse_count(argc, argv);
  if (!count) benchmark::Initialize(&argc, argv);
  if (!count && benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const bench::Machine machine = bench::open_machine();
  if (count) return bench::count(machine, *count, beginning);
  bench::time(machine);
  benchmark::Shutdown();
}
