// Counts instructions, on a machine whose clock counts instructions: tests/lab/run --icount.
#pragma once

#include "operation.hpp"

#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bench {

/// Which instructions are counted: those of all threads of the process, or of the calling thread (a software GPU has
/// its own threads).
enum class Counted : std::uint8_t { process, thread };

/// The cost of one run of a way: the median over all batches, and the quartiles.
struct Cost {
  std::string way;
  double first = 0;
  double median = 0;
  double third = 0;
};

[[nodiscard]] Cost summary(std::string way, std::vector<double> values);

/// One operation in all its ways, the library's first.
struct Count {
  std::string operation;
  std::string unit = "instructions";
  std::optional<double> limit = {};  ///< for the library's median divided by that of the second way
  std::vector<Cost> ways = {};
};

/// A program's counts, for other programs to read: README.md has the keys.
struct CountLog {
  std::string program;
  std::string counted;    ///< whose instructions: "process" or "thread"
  std::string with = {};  ///< a driver whose instructions are included, and its version
  /// True if a device decides when the program has work, so that the kernel's part of the cost differs from boot to
  /// boot. Then only ratios may be compared with those of another run.
  bool by_ratio = false;
  std::vector<Count> counts = {};

  /// Writes it as JSON, with the kernel and the compiler. Does nothing if @p file is empty; ends the program (status 2)
  /// if the file cannot be written.
  void write(const std::string& file) const;
};

/// The arguments of `--count [--json FILE]`.
struct CountOptions {
  std::string json;  ///< empty if no file is wanted
};
/// Empty if the arguments are not these.
std::optional<CountOptions> parse_count(int argc, char** argv);

/// Measures every way of every operation in alternation, and prints a table. True if the library costs at most @p limit
/// times as much as the same work in raw system calls, for every operation. Ends the program (status 2) if the clock
/// does not count instructions. With @p log, adds the counts to it.
bool count_instructions(std::span<const Operation> operations, double limit, Counted counted = Counted::process,
                        CountLog* log = nullptr);
/// The same without a limit.
void show_instructions(std::span<const Operation> operations, Counted counted, CountLog* log = nullptr);

/// Ends the program (status 2) unless CPU time is the number of instructions.
void require_counting_clock(clockid_t clock = CLOCK_PROCESS_CPUTIME_ID);

}  // namespace bench
