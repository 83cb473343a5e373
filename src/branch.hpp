// One branch of a stream: a waiting place, the stages, the sink. It keeps its policy and its limit, and counts.
#pragma once

#include <dmaflow/pipeline.hpp>

#include <array>
#include <chrono>

namespace dmaflow {

class Branch {
 public:
  static constexpr std::uint32_t max_queue = 32;

  Branch(std::string name, Sink& sink, BranchOptions options);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] Sink& sink() const noexcept { return *sink_; }
  [[nodiscard]] std::span<Stage* const> stages() const noexcept { return options_.stages; }
  /// Frames that may wait here, beside those in the stages and the sink.
  [[nodiscard]] std::uint32_t max_queued() const noexcept;
  /// Puts a stage before all others.
  void prepend(Stage& stage) { options_.stages.insert(options_.stages.begin(), &stage); }

  /// Takes a stage out again.
  void remove(const Stage& stage) { std::erase(options_.stages, &stage); }

  /// Takes a frame in, or drops one of this branch's by its policy.
  void offer(Frame frame, BranchStats& stats) noexcept;
  /// Moves frames as far as they go, up to the sink's staging place. True where the sink took one: flush it.
  Result<bool> advance(BranchStats& stats);
  [[nodiscard]] bool wants_newest() const noexcept { return options_.policy == Policy::latest; }
  /// Frames wait in front.
  [[nodiscard]] bool has_waiting() const noexcept { return count_ > 0; }
  /// Drops what waits.
  void clear(BranchStats& stats) noexcept;

 private:
  Result<bool> feed_sink(Frame frame, BranchStats& stats);
  [[nodiscard]] bool sink_takes() const noexcept;
  [[nodiscard]] bool entry_takes() const noexcept;
  Frame pop() noexcept;

  std::string name_;
  Sink* sink_;
  BranchOptions options_;
  std::array<Frame, max_queue> queue_;
  std::uint32_t first_ = 0;
  std::uint32_t count_ = 0;
};

}  // namespace dmaflow
