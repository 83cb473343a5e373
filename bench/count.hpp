// Counts instructions, on a machine whose clock counts them: tests/lab/run --icount.
#pragma once

#include "operation.hpp"

#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bench {

/// Whose instructions: those of all threads of the process, or of the calling one (a software GPU has threads of its
/// own).
enum class Counted : std::uint8_t { process, thread };

/// What one way of an operation costs, each time: the median of all batches, and the quartiles.
struct Cost {
  std::string way;
  double first = 0;
  double median = 0;
  double third = 0;
};

[[nodiscard]] Cost summary(std::string way, std::vector<double> values);

/// One operation, in every way, the library's first.
struct Count {
  std::string operation;
  std::string unit = "instructions";
  std::optional<double> limit = {};  ///< of the library's median divided by that of the second way
  std::vector<Cost> ways = {};
};

/// What a program counted, for other programs to read: README.md has the keys.
struct CountLog {
  std::string program;
  std::string counted;    ///< whose: "process" or "thread"
  std::string with = {};  ///< a driver whose own instructions are among them, and its version
  /// Its work comes when a device has it, and how much of the kernel's falls to it differs from boot to boot: only
  /// ratios are to be compared with those of another run.
  bool by_ratio = false;
  std::vector<Count> counts = {};

  /// Writes it as JSON, with the kernel and the compiler. Does nothing where @p file is empty; ends the program (status
  /// 2) where it cannot be written.
  void write(const std::string& file) const;
};

/// What `--count [--json FILE]` asks for.
struct CountOptions {
  std::string json;  ///< empty where no file is wanted
};
/// None where the arguments are others.
std::optional<CountOptions> parse_count(int argc, char** argv);

/// Measures every way of every operation, by turns, and prints a table. True where the library costs at most @p limit
/// times what the same work costs in raw system calls, for every operation. Ends the program (status 2) where the clock
/// does not count instructions. With @p log, adds what was counted to it.
bool count_instructions(std::span<const Operation> operations, double limit, Counted counted = Counted::process,
                        CountLog* log = nullptr);
/// The same without a limit.
void show_instructions(std::span<const Operation> operations, Counted counted, CountLog* log = nullptr);

/// Ends the program (status 2) where CPU time is not the number of instructions.
void require_counting_clock(clockid_t clock = CLOCK_PROCESS_CPUTIME_ID);

}  // namespace bench
