// Whether the machine has the memory for a request.
#pragma once

#include <dmaflow/error.hpp>

#include <cstdint>
#include <span>
#include <string_view>

namespace dmaflow::detail {

/// ENOMEM where @p count buffers of objects of these sizes are more than /proc/meminfo's MemAvailable. The system heap
/// and udmabuf do not look: they take page after page until the kernel kills processes for want of memory (seen
/// on 6.12), so this is asked first.
[[nodiscard]] Result<void> check_memory(std::span<const std::uint64_t> object_sizes, std::uint32_t count,
                                        std::string_view allocator);

}  // namespace dmaflow::detail
