// What a running pipeline counts. Plain counters and fixed tables: counting allocates nothing.
#pragma once

#include <dmaflow/cpp23.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dmaflow {

/// A distribution of times from 1 microsecond to over an hour, each known to about 3 percent. Fixed size.
class Histogram {
 public:
  void add(std::chrono::nanoseconds value) noexcept;
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  /// The value below which @p percent (0 to 100) of the values lie; 0 where there are none.
  [[nodiscard]] std::chrono::nanoseconds percentile(double percent) const noexcept;
  [[nodiscard]] std::chrono::nanoseconds max() const noexcept { return max_; }

  /// One non-empty bucket: values from `from` up to `to`.
  struct Bucket {
    std::chrono::nanoseconds from{0};
    std::chrono::nanoseconds to{0};
    std::uint64_t count = 0;
  };
  /// The non-empty buckets in rising order. Allocates.
  [[nodiscard]] std::vector<Bucket> buckets() const;

 private:
  static constexpr std::size_t sub_bits = 5;  // 32 steps per doubling
  static constexpr std::size_t doublings = 32;
  static std::size_t index_of(std::uint64_t micros) noexcept;
  static std::uint64_t start_of(std::size_t index) noexcept;
  std::array<std::uint64_t, (doublings + 1) << sub_bits> counts_{};
  std::uint64_t count_ = 0;
  std::chrono::nanoseconds max_{0};
};

/// Frames that a branch released without showing them, by reason.
struct Drops {
  std::uint64_t replaced = 0;    ///< a newer frame came before the sink or stage had a free slot (Policy::latest)
  std::uint64_t queue_full = 0;  ///< BranchOptions::max_queued others waited already (Policy::drop_when_full)
  std::uint64_t by_device = 0;   ///< a stage or the sink took them and released them unused (Consumer::dropped())
  std::uint64_t late = 0;        ///< a newer frame was due as well (Policy::on_time)
  std::uint64_t discarded = 0;   ///< they waited when the program called Pipeline::discard()
  std::uint64_t at_stop = 0;     ///< they still waited when the stream stopped or was negotiated again

  [[nodiscard]] constexpr std::uint64_t total() const noexcept {
    return replaced + queue_full + by_device + late + discarded + at_stop;
  }
};

/// The frames of one branch. Every captured frame is in exactly one of delivered, dropped, failed, held and skipped.
struct BranchStats {
  std::string name{};
  std::uint64_t delivered = 0;  ///< frames the sink took and submitted, or still has to submit
  std::uint64_t presented = 0;  ///< of those, frames reported as shown
  Drops dropped{};
  std::uint64_t failed = 0;  ///< frames for which a stage or the sink returned an error
  std::uint64_t held = 0;    ///< frames that wait in the branch or are in its stages now; 0 once stopped
  /// Frames that were captured while the branch got none: before it was added, while it was paused, after it failed,
  /// or between two frames of the interval it asked for (BranchOptions::request).
  std::uint64_t skipped = 0;
  std::uint64_t added = 0;  ///< frames that stages produced beyond those they took (a deinterlacer makes two from one)
  Histogram latency{};      ///< capture to presentation; only of frames whose time stamp is on CLOCK_MONOTONIC

  /// Always StreamStats::captured.
  [[nodiscard]] constexpr std::uint64_t captured() const noexcept {
    return delivered + dropped.total() + failed + held + skipped - added;
  }
};

/// One source and its branches.
struct StreamStats {
  std::string name{};
  std::uint64_t captured = 0;        ///< frames taken from the source
  std::uint64_t lost = 0;            ///< gaps in the source's sequence: the device had no buffer or no time
  std::uint64_t erroneous = 0;       ///< captured frames that are flagged as damaged
  std::uint64_t bytes_copied = 0;    ///< by stages, in user space
  std::uint64_t renegotiations = 0;  ///< the stream's format changed while it ran
  std::vector<BranchStats> branches{};
  std::vector<BranchStats> removed{};  ///< of the branches that Pipeline::remove() removed, in that order
};

/// How often something happened in each of the last few seconds. Fixed size.
class RecentSeconds {
 public:
  /// Counts one in @p second. Seconds older than the last four are forgotten.
  void add(std::uint64_t second) noexcept;
  /// How many in @p second; 0 if that is too long ago.
  [[nodiscard]] std::uint32_t of(std::uint64_t second) const noexcept;

 private:
  struct Entry {
    std::uint64_t second = 0;
    std::uint32_t count = 0;
  };
  std::array<Entry, 4> entries_{};
};

/// A whole pipeline.
struct Stats {
  std::chrono::nanoseconds elapsed{0};  ///< since the first frame
  std::vector<StreamStats> streams{};

  /// One line for people: for each stream's first branch, the rate of the last second, latency p50 and p99, and drops.
  [[nodiscard]] std::string line() const;
  /// JSON, with every counter, the latency distribution and the presented frames of each second.
  [[nodiscard]] std::string json() const;

  /// Presented frames (of every stream's first branch) in each second since the first frame; the first hour is kept.
  std::vector<std::uint32_t> per_second{};
  RecentSeconds recent{};  ///< the same for the last few seconds, also after the first hour
};

}  // namespace dmaflow
