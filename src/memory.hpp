// Shared by allocators of plain memory: a check that the machine has enough, and making a set of buffers from objects.
#pragma once

#include <dmaflow/buffer.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>
#include <dmaflow/layout.hpp>

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace dmaflow::detail {

/// ENOMEM if @p count buffers of objects of these sizes exceed MemAvailable in /proc/meminfo. The system heap and
/// udmabuf do not check this: they allocate page after page until the kernel's OOM killer kills processes (seen on
/// 6.12), so it is checked first.
[[nodiscard]] Result<void> check_memory(std::span<const std::uint64_t> object_sizes, std::uint32_t count,
                                        std::string_view allocator);

/// @p count buffers of one layout, each object from @p allocate_object(bytes), a Result<Fd>. All or none.
template <typename AllocateObject>
[[nodiscard]] Result<std::vector<Buffer>> make_buffers(const Layout& layout,
                                                       std::span<const std::uint64_t> object_sizes, std::uint32_t count,
                                                       const Buffer::Options& options, AllocateObject allocate_object) {
  std::vector<Buffer> buffers;
  buffers.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    std::array<Fd, max_planes> objects;
    for (std::uint32_t object = 0; object < layout.object_count(); ++object) {
      auto allocated = allocate_object(object_sizes[object]);
      if (!allocated) return std::unexpected(allocated.error());
      objects[object] = std::move(*allocated);
    }
    auto buffer = Buffer::create(layout, std::span(objects).first(layout.object_count()), options);
    if (!buffer) return std::unexpected(buffer.error());
    buffers.push_back(std::move(*buffer));
  }
  return buffers;
}

}  // namespace dmaflow::detail
