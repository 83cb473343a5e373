// The operations on fences, each with the library and in raw system calls.
#pragma once

#include "operation.hpp"

#include <vector>

namespace bench {

/// All of them, on real devices: sw_sync's fences, a dma-buf of the system heap, a DRM device with timelines.
/// Ends the program if one of these is missing. The operations own what they use.
[[nodiscard]] std::vector<Operation> fence_operations();

}  // namespace bench
