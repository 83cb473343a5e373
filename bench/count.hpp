// Counts instructions, on a machine whose clock counts them: tests/lab/run --icount.
#pragma once

#include "operation.hpp"

#include <span>

namespace bench {

/// Measures every way of every operation, by turns, and prints a table. True where the library costs at most @p limit
/// times what the same work costs in raw system calls, for every operation. Ends the program (status 2) where the clock
/// does not count instructions.
bool count_instructions(std::span<const Operation> operations, double limit);

/// Ends the program (status 2) where CPU time is not the number of instructions.
void require_counting_clock();

}  // namespace bench
