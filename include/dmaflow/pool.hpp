// Pool: buffers waiting to be filled, for stages and for programs that draw their own frames.
#pragma once

#include <dmaflow/allocator.hpp>
#include <dmaflow/frame.hpp>

#include <cstdint>
#include <vector>

namespace dmaflow {

/// A set of equal buffers. acquire() gives the next free one as a Frame to be filled; letting go of the Frame (a sink
/// does when its display has moved on) puts it back. O(1), no allocation, no system call. The pool belongs to one
/// thread; its frames may end in any. Frames outlive the pool safely.
class Pool {
 public:
  struct Stats {
    std::uint64_t acquired = 0;
    std::uint64_t starved = 0;  ///< acquire() found nothing free
  };

  /// From buffers somebody made: an allocator, or a sink that owns its own. EINVAL where there are none.
  [[nodiscard]] static Result<Pool> create(std::vector<Buffer> buffers);
  /// From an allocator. Errors: its own.
  [[nodiscard]] static Result<Pool> create(Allocator& allocator, const Request& request);

  /// A free buffer. Errors: EAGAIN (all are held: starvation, also counted; the frames held say who keeps them).
  /// A buffer whose release fence is still pending counts as held.
  [[nodiscard]] Result<Frame> acquire(const FrameInfo& info = {}) noexcept;
  /// Adds buffers. Allocates; call between frames.
  Result<void> grow(std::vector<Buffer> buffers);
  /// Takes @p count buffers out, free ones at once, held ones when they come back. EINVAL where it has not as many.
  Result<void> shrink(std::uint32_t count);

  /// Buffers in the pool, without those to be taken out.
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
  /// Buffers now held.
  [[nodiscard]] std::uint32_t held() const noexcept;
  [[nodiscard]] const Stats& stats() const noexcept { return stats_; }

 private:
  Pool() = default;
  struct Group {  // what one create() or grow() added
    std::shared_ptr<HoldSet> holds;
    std::vector<std::uint32_t> free;
    std::vector<std::uint32_t> pending;  // back, but with a release fence not yet signalled
    std::uint32_t live = 0;              // not yet taken out
  };
  void collect() noexcept;

  std::vector<Group> groups_;
  std::uint32_t size_ = 0;
  std::uint32_t leaving_ = 0;  // to be taken out when they come back
  Stats stats_;
};

}  // namespace dmaflow
