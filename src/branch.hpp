// One branch of a stream: a queue, the stages, the sink. It applies its policy and its limit, and keeps the counters.
#pragma once

#include <dmaflow/pipeline.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace dmaflow::detail {

class Branch {
 public:
  static constexpr std::uint32_t max_queue = 32;

  /// Whether it gets frames. A failed branch is stopped and only waits to be removed.
  enum class State : std::uint8_t { flowing, paused, failed };

  Branch(std::string name, Sink& sink, BranchOptions options);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] Sink& sink() const noexcept { return *sink_; }
  [[nodiscard]] std::span<Stage* const> stages() const noexcept { return options_.stages; }
  /// Whether the object is its sink or one of its stages.
  [[nodiscard]] bool has(const Pollable* object) const noexcept;
  /// The number of frames that may wait here, in addition to those in the stages and the sink.
  [[nodiscard]] std::uint32_t max_queued() const noexcept;
  /// Inserts a stage before the one at @p index, or at the end.
  void insert(std::size_t index, Stage& stage) {
    options_.stages.insert(options_.stages.begin() + static_cast<std::ptrdiff_t>(index), &stage);
  }
  /// Removes a stage.
  void remove(const Stage& stage) { std::erase(options_.stages, &stage); }
  [[nodiscard]] State state() const noexcept { return state_; }
  void set_state(State state) noexcept { state_ = state; }
  [[nodiscard]] bool may_restart() const noexcept { return options_.may_restart; }
  [[nodiscard]] const std::optional<StreamRequest>& request() const noexcept { return options_.request; }

  /// Whether the branch takes this frame: at most one in the interval that it asked for, if it asked for one.
  [[nodiscard]] bool wants(const FrameInfo& info) noexcept {
    return interval_.count() == 0 || is_next_due(info.timestamp);
  }
  /// To be called before the devices start: what they have dropped so far does not count for this run.
  void begin() noexcept;
  /// Queues a frame, or drops one of this branch's frames according to its policy.
  void offer(Frame frame, BranchStats& stats) noexcept;
  /// Moves frames as far as possible, up to the sink's staging slot. True if the sink took one: then flush it. On an
  /// error the frame that caused it is released and counted as failed.
  Result<bool> advance(BranchStats& stats);
  /// False if nothing is left that advance() could move.
  [[nodiscard]] bool may_have_more() const noexcept { return count_ > 0 || !options_.stages.empty(); }
  /// Releases every frame that is queued here or still in a stage and was captured before the frame with this number.
  void discard_before(std::uint64_t sequence, BranchStats& stats) noexcept;
  /// When the first frame that waits for its target is due; nullopt if none does, or if it waits for something else.
  [[nodiscard]] std::optional<Deadline> wake_by() const noexcept {
    return options_.policy == Policy::on_time ? first_due() : std::nullopt;
  }
  void report(const Presentation& presentation) {
    if (options_.on_presented) options_.on_presented(presentation);
  }
  [[nodiscard]] bool wants_newest() const noexcept { return options_.policy == Policy::latest; }
  /// False if nothing may be taken from the source until this branch has moved frames on.
  [[nodiscard]] bool has_room() const noexcept {
    return !holds_source_back() || state_ != State::flowing || count_ < options_.max_queued;
  }
  /// False while it has frames in flight that it must not lose.
  [[nodiscard]] bool is_done() const noexcept {
    return !holds_source_back() || state_ == State::failed || (count_ == 0 && in_stages_ == 0);
  }
  /// Reads what the devices dropped, and what they hold.
  void count(BranchStats& stats) noexcept {
    stats.held = count_;
    if (!options_.stages.empty() || sink_->dropped() != sink_dropped_) count_drops(stats);
  }
  /// To be called after the devices stopped: drops the frames that waited here or were left in the stages.
  void finish(BranchStats& stats) noexcept;

  /// True if the last frame that the sink got has a time stamp on CLOCK_MONOTONIC.
  [[nodiscard]] bool has_latency() const noexcept { return has_latency_; }
  /// Incremented each time a frame goes from one participant to the next.
  [[nodiscard]] std::uint64_t moves() const noexcept { return moves_; }
  /// A participant that cannot take another frame.
  struct Blocker {
    std::string_view name{};  // empty: each can take a frame or waits for an external event
    bool waits_for_fence = false;
  };
  /// The blocker nearest to the sink.
  [[nodiscard]] Blocker blocker() const noexcept;

 private:
  [[nodiscard]] bool holds_source_back() const noexcept {
    return options_.policy == Policy::wait_when_full || options_.policy == Policy::on_time;
  }
  [[nodiscard]] bool is_next_due(std::chrono::nanoseconds timestamp) noexcept;
  void count_drops(BranchStats& stats) noexcept;
  Result<bool> move_through(BranchStats& stats, bool& between);
  Result<bool> leave_stages(BranchStats& stats, bool& between);
  [[nodiscard]] std::optional<Deadline> first_due() const noexcept;
  [[nodiscard]] bool is_due(const Frame& frame, Deadline::Clock::time_point now) const noexcept;
  /// Whether the first frame in the queue may move on now. Drops frames whose successor is due as well: they are late.
  [[nodiscard]] bool first_is_due(BranchStats& stats) noexcept {
    return options_.policy != Policy::on_time || look_whether_due(stats);
  }
  [[nodiscard]] bool look_whether_due(BranchStats& stats) noexcept;
  Result<bool> advance_stages(BranchStats& stats);
  Result<void> feed_sink(Frame frame, BranchStats& stats);
  Result<void> feed_stage(std::size_t index, Frame frame, BranchStats& stats);
  void note_left(BranchStats& stats) noexcept;
  /// A display replaces the frame that it has not yet submitted; a recorder must have a free slot.
  [[nodiscard]] bool sink_takes() const noexcept { return wants_newest() || sink_->ready(); }
  [[nodiscard]] bool entry_takes() const noexcept;
  Frame pop() noexcept;

  std::string name_;
  Sink* sink_;
  BranchOptions options_;
  std::array<Frame, max_queue> queue_;
  std::uint32_t first_ = 0;
  std::uint32_t count_ = 0;
  std::uint64_t in_stages_ = 0;     // frames that stages took and have not yet returned
  std::uint64_t sink_dropped_ = 0;  // Consumer::dropped() when it was read last
  std::uint64_t stages_dropped_ = 0;
  std::uint64_t moves_ = 0;
  std::uint64_t discard_before_ = 0;              // FrameInfo::sequence: older frames that leave a stage are released
  std::chrono::nanoseconds interval_{0};          // between two frames at least; 0 = takes all
  std::optional<std::chrono::nanoseconds> next_;  // when the next is due, by the frames' own time stamps
  State state_ = State::flowing;
  bool has_latency_ = false;
};

// Inline, because every frame passes through these.

inline Frame Branch::pop() noexcept {
  Frame frame = std::move(queue_[first_]);
  first_ = (first_ + 1) % max_queue;
  --count_;
  return frame;
}

inline void Branch::offer(Frame frame, BranchStats& stats) noexcept {
  if (wants_newest() && count_ > 0) {
    pop().release();
    ++stats.dropped.replaced;
  } else if (!wants_newest() && count_ >= options_.max_queued) {
    // Policy::drop_when_full. With the policies that hold the source back, no frame is taken without has_room().
    ++stats.dropped.queue_full;
    return;  // the new frame is dropped: those in the queue keep their order and their place
  }
  queue_[(first_ + count_) % max_queue] = std::move(frame);
  ++count_;
}

inline Result<void> Branch::feed_sink(Frame frame, BranchStats& stats) {
  has_latency_ = frame.info().clock == FrameInfo::Clock::monotonic;
  auto displaced = sink_->accept(std::move(frame));
  if (!displaced) [[unlikely]] {
    ++stats.failed;
    return std::unexpected(displaced.error());
  }
  if (*displaced) {
    ++stats.dropped.replaced;
  } else {
    ++stats.delivered;
    ++moves_;
  }
  return {};
}

inline Result<bool> Branch::advance(BranchStats& stats) {
  if (!options_.stages.empty()) return advance_stages(stats);
  if (count_ == 0 || !sink_takes() || !first_is_due(stats)) return false;
  if (auto taken = feed_sink(pop(), stats); !taken) [[unlikely]]
    return std::unexpected(taken.error());
  return true;
}

}  // namespace dmaflow::detail
