// CPU mappings of a set of buffers, made once when a stream starts and found by buffer afterwards.
#pragma once

#include <dmaflow/cpu_access.hpp>

#include <algorithm>
#include <list>
#include <span>
#include <utility>

namespace dmaflow::detail {

/// Whether the CPU can map @p buffer for @p access: maps it and unmaps it again. Errors: those of CpuMap::create().
[[nodiscard]] inline Result<void> try_map(const Buffer& buffer, Access access) {
  const auto map = CpuMap::create(buffer, access);
  return map ? Result<void>{} : std::unexpected(map.error());
}

/// A list, so that each map keeps its address when others are added or removed.
using BufferMaps = std::list<CpuMap>;

/// Adds a map of @p buffer. Errors: those of CpuMap::create().
[[nodiscard]] inline Result<void> add_map(BufferMaps& maps, const Buffer& buffer, Access access) {
  auto map = CpuMap::create(buffer, access);
  if (!map) return std::unexpected(map.error());
  maps.push_back(std::move(*map));
  return {};
}

/// Unmaps @p buffer, if it is mapped.
inline void remove_map(BufferMaps& maps, const Buffer& buffer) noexcept {
  maps.remove_if([&](const CpuMap& map) { return map.buffer() == buffer; });
}

/// Maps every buffer, or none. Errors: those of CpuMap::create().
[[nodiscard]] inline Result<BufferMaps> map_all(std::span<const Buffer> buffers, Access access) {
  BufferMaps maps;
  for (const Buffer& buffer : buffers) {
    if (auto added = add_map(maps, buffer, access); !added) return std::unexpected(added.error());
  }
  return maps;
}

/// The map of @p buffer, or nullptr.
[[nodiscard]] inline const CpuMap* map_of(const BufferMaps& maps, const Buffer& buffer) noexcept {
  const auto found = std::ranges::find(maps, buffer, &CpuMap::buffer);
  return found == maps.end() ? nullptr : &*found;
}

}  // namespace dmaflow::detail
