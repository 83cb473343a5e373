// Detects a stream that makes no progress and names the cause: a camera that delivers nothing, or a display that takes
// nothing.
#pragma once

#include "stream.hpp"

#include <chrono>
#include <expected>
#include <optional>
#include <span>
#include <vector>

namespace dmaflow::detail {

class ProgressWatch {
 public:
  using Time = Deadline::Clock::time_point;

  /// @p limit: RunOptions::frame_timeout. @p streams must outlive it. Allocates all its memory here.
  ProgressWatch(std::span<const Stream> streams, std::chrono::nanoseconds limit);

  /// To be called once the streams have been started.
  void begin(Time now) noexcept;

  /// A stream or branch without progress for the limit.
  struct Stalled {
    std::size_t stream = 0;
    std::optional<std::size_t> branch{};  // nullopt: the source
    Error error;                          // ETIMEDOUT, naming the participant
  };
  /// Checks every stream and branch.
  std::expected<void, Stalled> check(std::span<const StreamStats> stats, Time now);
  /// When the first of them reaches the limit if it makes no progress.
  [[nodiscard]] Time next() const noexcept;

 private:
  struct Mark {
    std::uint64_t count = 0;
    Time since{};
    bool counts = true;  // false while no progress is expected
  };
  Result<void> check_source(std::size_t index, std::uint64_t captured, Time now);
  Result<void> check_branch(const Branch& branch, Mark& mark, std::uint64_t presented, Time now) const;
  [[nodiscard]] bool is_over(const Mark& mark, Time now) const noexcept;

  std::span<const Stream> streams_;
  std::chrono::nanoseconds limit_;
  std::vector<Mark> sources_;
  std::vector<std::vector<Mark>> branches_;
};

}  // namespace dmaflow::detail
