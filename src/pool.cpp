#include <dmaflow/pool.hpp>

#include <algorithm>
#include <cerrno>

namespace dmaflow {
namespace {

/// True once nobody waits for anything: a failed fence counts too, for nothing more will come of it.
bool all_done(std::span<Fence> fences) noexcept {
  return std::ranges::all_of(fences, [](const Fence& fence) {
    const auto ended = fence.has_ended();
    return !ended || *ended;
  });
}

}  // namespace

Result<Pool> Pool::create(std::vector<Buffer> buffers) {
  Pool pool;
  if (auto grown = pool.grow(std::move(buffers)); !grown) return std::unexpected(grown.error());
  return pool;
}

Result<Pool> Pool::create(Allocator& allocator, const Request& request) {
  auto buffers = allocator.allocate(request);
  if (!buffers) return std::unexpected(buffers.error());
  return create(std::move(*buffers));
}

Result<void> Pool::grow(std::vector<Buffer> buffers) {
  const auto count = static_cast<std::uint32_t>(buffers.size());
  auto holds = HoldSet::create(std::move(buffers));
  if (!holds) return std::unexpected(holds.error());
  Group group{.holds = std::move(*holds), .free = {}, .pending = {}, .live = count};
  group.free.reserve(count);  // so that frames come back without an allocation
  group.pending.reserve(count);
  for (std::uint32_t i = count; i > 0; --i) group.free.push_back(i - 1);
  groups_.push_back(std::move(group));
  size_ += count;
  return {};
}

Result<void> Pool::shrink(std::uint32_t count) {
  if (count > size_) {
    return std::unexpected(Error::os(EINVAL, "Pool::shrink").detail("%u asked for, the pool has %u", count, size_));
  }
  size_ -= count;
  leaving_ += count;
  collect();
  return {};
}

// Brings home what was returned, and lets those leave that are to.
void Pool::collect() noexcept {
  const bool has_left = leaving_ > 0;  // only then may a group have become empty
  for (Group& group : groups_) {
    while (const auto back = group.holds->take_returned()) {
      (all_done(back->fences) ? group.free : group.pending).push_back(back->index);
    }
    if (!group.pending.empty()) {
      std::erase_if(group.pending, [&](std::uint32_t index) {
        if (!all_done(group.holds->fences(index))) return false;
        group.free.push_back(index);
        return true;
      });
    }
    if (leaving_ == 0) continue;
    while (leaving_ > 0 && !group.free.empty()) {
      static_cast<void>(group.holds->retire(group.free.back()));
      group.free.pop_back();
      --group.live;
      --leaving_;
    }
  }
  if (has_left) std::erase_if(groups_, [](const Group& group) { return group.live == 0; });
}

Result<Frame> Pool::acquire(const FrameInfo& info) noexcept {
  collect();
  for (Group& group : groups_) {
    if (group.free.empty()) continue;
    const auto index = group.free.back();
    group.free.pop_back();
    ++stats_.acquired;
    return group.holds->lend(index, info);
  }
  ++stats_.starved;
  return std::unexpected(Error::os(EAGAIN, "Pool::acquire").detail("all %u buffers are held", size_));
}

std::uint32_t Pool::held() const noexcept {
  std::uint32_t held = 0;
  for (const Group& group : groups_) held += group.holds->lent() + static_cast<std::uint32_t>(group.pending.size());
  return held;
}

}  // namespace dmaflow
