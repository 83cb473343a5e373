// The fences' operations, each the library's way and in raw system calls.
#pragma once

#include "operation.hpp"

#include <vector>

namespace bench {

/// All of them, on real devices: sw_sync's fences, a dma-buf of the system heap, a DRM device with timelines.
/// Ends the program where one of these is missing. What the operations use lives as long as they do.
[[nodiscard]] std::vector<Operation> fence_operations();

}  // namespace bench
