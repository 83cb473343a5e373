// CPU time under instruction counting: a nanosecond is an instruction, in user space and in the kernel. Other
// processes' instructions are not included. Timer interrupts are included in some of the batches, so medians are used.
#include "count.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/utsname.h>

namespace bench {
namespace {

constexpr int rounds = 41;

double cpu_time(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

/// The cost of reading the clock twice.
double cost_of_looking(clockid_t clock) {
  std::vector<double> costs(rounds);
  for (double& cost : costs) {
    const double begin = cpu_time(clock);
    cost = cpu_time(clock) - begin;
  }
  return summary({}, std::move(costs)).median;
}

double cost_of(const Way& way, int batch, double looking, clockid_t clock) {
  if (way.prepare) way.prepare(batch);
  const double begin = cpu_time(clock);
  way.run(batch);
  return (cpu_time(clock) - begin - looking) / batch;
}

Count measure(const Operation& operation, std::optional<double> limit, double looking, clockid_t clock) {
  std::vector<std::vector<double>> costs(operation.ways.size());
  for (int round = -1; round < rounds; ++round) {
    for (std::size_t way = 0; way < operation.ways.size(); ++way) {
      const double cost = cost_of(operation.ways[way], operation.batch, looking, clock);
      if (round >= 0) costs[way].push_back(cost);  // the first one warms up
    }
  }
  Count count{.operation = operation.name, .limit = limit};
  for (std::size_t way = 0; way < operation.ways.size(); ++way) {
    count.ways.push_back(summary(operation.ways[way].name, std::move(costs[way])));
  }
  return count;
}

/// Prints one row for the library and one for each raw way. True if the library is within the limit.
bool show(const Count& count) {
  bool good = true;
  for (const Cost& cost : count.ways) {
    const bool is_ours = &cost == &count.ways.front();
    const double ratio = count.ways.front().median / cost.median;
    std::printf("%-26s %-16s %11.1f %6.2f%%", is_ours ? count.operation.c_str() : "", cost.way.c_str(), cost.median,
                100 * (cost.third - cost.first) / cost.median);
    if (!is_ours) std::printf(" %8.4f", ratio);
    if (&cost == &count.ways.front() + 1 && count.limit && ratio > *count.limit) {
      good = false;
      std::printf("  more than %.2f", *count.limit);
    }
    std::printf("\n");
  }
  return good;
}

}  // namespace

Cost summary(std::string way, std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t all = values.size();
  return {.way = std::move(way), .first = values[all / 4], .median = values[all / 2], .third = values[all * 3 / 4]};
}

/// If two million instructions do not take two million nanoseconds, the clock does not count instructions.
void require_counting_clock(clockid_t clock) {
#if defined(__x86_64__)
  constexpr double expected = 2e6;
  std::vector<double> costs(rounds);
  for (double& cost : costs) {
    std::uint64_t left = 1'000'000;
    const double begin = cpu_time(clock);
    asm volatile("1: dec %0\n\tjnz 1b" : "+r"(left) : : "cc");
    cost = cpu_time(clock) - begin;
  }
  const Cost cost = summary({}, std::move(costs));
  if (std::abs(cost.median / expected - 1) < 0.01 && cost.third - cost.first < 0.01 * expected) return;
  std::fprintf(stderr, "2000000 instructions took %.0f ns of CPU time\n", cost.median);
#endif
  give_up("the clock of this machine does not count instructions: run this by tests/lab/run --icount");
}

void give_up(const std::string& why) {
  std::fprintf(stderr, "error: %s\n", why.c_str());
  std::_Exit(2);
}

namespace {

/// Prints the table and returns how many operations are within the limit.
std::size_t measure_all(std::span<const Operation> operations, std::optional<double> limit, Counted counted,
                        CountLog* log) {
  const clockid_t clock = counted == Counted::process ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_THREAD_CPUTIME_ID;
  require_counting_clock(clock);
  const double looking = cost_of_looking(clock);
  std::printf("%-26s %-16s %11s %7s %8s\n", "operation", "way", "instr.", "spread", "ours/it");
  std::size_t good = 0;
  for (const Operation& operation : operations) {
    Count count = measure(operation, limit, looking, clock);
    if (show(count)) ++good;
    if (log != nullptr) log->counts.push_back(std::move(count));
  }
  return good;
}

nlohmann::json json_of(const Count& count) {
  auto ways = nlohmann::json::array();
  for (const Cost& cost : count.ways) {
    ways.push_back({{"way", cost.way}, {"median", cost.median}, {"first", cost.first}, {"third", cost.third}});
  }
  const nlohmann::json limit = count.limit ? nlohmann::json(*count.limit) : nlohmann::json();
  return {{"operation", count.operation}, {"unit", count.unit}, {"limit", limit}, {"ways", ways}};
}

}  // namespace

bool count_instructions(std::span<const Operation> operations, double limit, Counted counted, CountLog* log) {
  const std::size_t good = measure_all(operations, limit, counted, log);
  std::printf("%zu of %zu operations cost at most %.2f times the same work in raw system calls\n", good,
              operations.size(), limit);
  return good == operations.size();
}

void show_instructions(std::span<const Operation> operations, Counted counted, CountLog* log) {
  static_cast<void>(measure_all(operations, {}, counted, log));
}

std::optional<CountOptions> parse_count(int argc, char** argv) {
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  if (arguments.empty() || arguments[0] != "--count") return {};
  if (arguments.size() == 1) return CountOptions{};
  if (arguments.size() == 3 && arguments[1] == "--json") return CountOptions{.json = std::string(arguments[2])};
  return {};
}

void CountLog::write(const std::string& file) const {
  if (file.empty()) return;
  utsname kernel{};
  ::uname(&kernel);
#if defined(__clang__)
  const std::string compiler = __VERSION__;
#else
  const std::string compiler = "GCC " __VERSION__;
#endif
  auto all = nlohmann::json::array();
  for (const Count& count : counts) all.push_back(json_of(count));
  const nlohmann::json whole{{"program", program},       {"counted", counted},   {"with", with}, {"by_ratio", by_ratio},
                             {"kernel", kernel.release}, {"compiler", compiler}, {"counts", all}};
  std::ofstream out(file);
  out << whole.dump(1) << '\n';
  out.close();
  require(out.good(), "the JSON file cannot be written");
}

}  // namespace bench
