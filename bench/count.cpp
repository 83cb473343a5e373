// The process's CPU time under instruction counting: a nanosecond is an instruction, of user and kernel alike. What
// other processes do is not in it; the timer's interrupts are, in one batch of some, and so medians are taken.
#include "count.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

namespace bench {
namespace {

constexpr int rounds = 41;

double cpu_time() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

struct Quartiles {
  double first;
  double median;
  double third;
};

Quartiles quartiles(std::vector<double> values) {
  std::ranges::sort(values);
  return {
      .first = values[values.size() / 4], .median = values[values.size() / 2], .third = values[values.size() * 3 / 4]};
}

/// What looking at the clock twice costs.
double cost_of_looking() {
  std::vector<double> costs(rounds);
  for (double& cost : costs) {
    const double begin = cpu_time();
    cost = cpu_time() - begin;
  }
  return quartiles(costs).median;
}

double cost_of(const Way& way, int batch, double looking) {
  if (way.prepare) way.prepare(batch);
  const double begin = cpu_time();
  way.run(batch);
  return (cpu_time() - begin - looking) / batch;
}

/// One row for the library and one for each raw way. Whether the library keeps within the limit.
bool measure(const Operation& operation, double limit, double looking) {
  std::vector<std::vector<double>> costs(operation.ways.size());
  for (int round = -1; round < rounds; ++round) {
    for (std::size_t way = 0; way < operation.ways.size(); ++way) {
      const double cost = cost_of(operation.ways[way], operation.batch, looking);
      if (round >= 0) costs[way].push_back(cost);  // the first one warms up
    }
  }
  const double ours = quartiles(costs[0]).median;
  bool good = true;
  for (std::size_t way = 0; way < operation.ways.size(); ++way) {
    const auto [first, median, third] = quartiles(costs[way]);
    const double ratio = ours / median;
    std::printf("%-26s %-16s %11.1f %6.2f%%", way == 0 ? operation.name.c_str() : "", operation.ways[way].name.c_str(),
                median, 100 * (third - first) / median);
    if (way > 0) std::printf(" %8.4f", ratio);
    if (way == 1 && ratio > limit) {
      good = false;
      std::printf("  more than %.2f", limit);
    }
    std::printf("\n");
  }
  return good;
}

}  // namespace

/// Two million instructions take two million nanoseconds, or the clock counts something else.
void require_counting_clock() {
#if defined(__x86_64__)
  constexpr double expected = 2e6;
  std::vector<double> costs(rounds);
  for (double& cost : costs) {
    std::uint64_t left = 1'000'000;
    const double begin = cpu_time();
    asm volatile("1: dec %0\n\tjnz 1b" : "+r"(left) : : "cc");
    cost = cpu_time() - begin;
  }
  const auto [first, median, third] = quartiles(costs);
  if (std::abs(median / expected - 1) < 0.01 && third - first < 0.01 * expected) return;
  std::fprintf(stderr, "2000000 instructions took %.0f ns of CPU time\n", median);
#endif
  give_up("the clock of this machine does not count instructions: run this by tests/lab/run --icount");
}

void give_up(const std::string& why) {
  std::fprintf(stderr, "error: %s\n", why.c_str());
  std::_Exit(2);
}

bool count_instructions(std::span<const Operation> operations, double limit) {
  require_counting_clock();
  const double looking = cost_of_looking();
  std::printf("%-26s %-16s %11s %7s %8s\n", "operation", "way", "instr.", "spread", "ours/it");
  std::size_t failed = 0;
  for (const Operation& operation : operations) {
    if (!measure(operation, limit, looking)) ++failed;
  }
  std::printf("%zu of %zu operations cost at most %.2f times the same work in raw system calls\n",
              operations.size() - failed, operations.size(), limit);
  return failed == 0;
}

}  // namespace bench
