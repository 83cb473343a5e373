// Counts instructions, on a machine whose clock counts them: tests/lab/run --icount.
#pragma once

#include "operation.hpp"

#include <cstdint>
#include <ctime>
#include <span>

namespace bench {

/// Whose instructions: those of all threads of the process, or of the calling one (a software GPU has threads of its
/// own).
enum class Counted : std::uint8_t { process, thread };

/// Measures every way of every operation, by turns, and prints a table. True where the library costs at most @p limit
/// times what the same work costs in raw system calls, for every operation. Ends the program (status 2) where the clock
/// does not count instructions.
bool count_instructions(std::span<const Operation> operations, double limit, Counted counted = Counted::process);
/// The same without a limit.
void show_instructions(std::span<const Operation> operations, Counted counted);

/// Ends the program (status 2) where CPU time is not the number of instructions.
void require_counting_clock(clockid_t clock = CLOCK_PROCESS_CPUTIME_ID);

}  // namespace bench
