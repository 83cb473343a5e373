// One source with its branches: the negotiated links, the buffers, and the path of a frame.
#pragma once

#include "branch.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/pipeline.hpp>

#include <algorithm>
#include <array>
#include <expected>
#include <list>
#include <optional>
#include <vector>

namespace dmaflow::detail {

/// Presented frames per second: the first hour in a table that is allocated beforehand, the last seconds of runs of any
/// length.
struct PerSecond {
  std::vector<std::uint32_t>* counts = nullptr;
  RecentSeconds* recent = nullptr;
  std::chrono::nanoseconds first{0};    // when the first frame arrived, CLOCK_MONOTONIC
  std::chrono::seconds this_second{0};  // since then; of the last frame

  void add(std::chrono::nanoseconds presented) noexcept;
};

/// Who failed: a branch of a stream, or its source.
struct Failed {
  std::optional<std::size_t> branch;  // nullopt: the source
  Error error;
};

class Stream {
 public:
  explicit Stream(Source& source) : source_(&source) {}

  [[nodiscard]] Source& source() const noexcept { return *source_; }
  [[nodiscard]] std::vector<Branch>& branches() noexcept { return branches_; }
  [[nodiscard]] const std::vector<Branch>& branches() const noexcept { return branches_; }
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  /// True if it is off, or has ended and the frames that must not be lost have been delivered.
  [[nodiscard]] bool is_done() const noexcept {
    return is_off_ || (ended_ && std::ranges::all_of(branches_, &Branch::is_done));
  }
  /// False while a branch that must not lose frames is full: then nothing is taken from the source.
  [[nodiscard]] bool has_room() const noexcept { return std::ranges::all_of(branches_, &Branch::has_room); }
  /// Its own request, if it differs from the one for the other streams.
  [[nodiscard]] const std::optional<StreamRequest>& request() const noexcept { return request_; }
  void set_request(StreamRequest wanted) { request_ = std::move(wanted); }
  /// True between start() and stop().
  [[nodiscard]] bool is_running() const noexcept { return is_running_; }
  /// True if it was stopped individually, failed, or has no branch. Then the loop does not wait for its source either.
  [[nodiscard]] bool is_off() const noexcept { return is_off_; }
  void set_off(bool off) noexcept { is_off_ = off; }
  /// Where its source's descriptor is in the loop's wait set.
  static constexpr std::size_t no_poll = ~std::size_t{0};
  [[nodiscard]] std::size_t poll_index() const noexcept { return poll_index_; }
  void set_poll_index(std::size_t index) noexcept { poll_index_ = index; }
  /// How often it was started.
  [[nodiscard]] std::uint64_t starts() const noexcept { return starts_; }

  /// Lets failed branches get frames again from the next start on.
  void retry_failed() noexcept;
  /// Negotiates every link, makes its buffers and imports them. On refusal nothing is kept.
  std::expected<void, Refused> prepare(const StreamRequest& request, const std::vector<Allocator*>& allocators);
  /// The current plans, the source's first.
  [[nodiscard]] std::vector<Plan> plans() const;
  /// Releases the buffers, and removes the copies that a plan inserted.
  void forget() noexcept;
  /// Starts the sinks, the stages, then the source. On an error, call stop() to stop what was started.
  Result<void> start();
  /// Waits for the frames in flight, then stops the source, the stages and the sinks, in this order. Returns the first
  /// error of any of them; all are stopped in any case, and every frame is counted.
  Result<void> stop(Deadline deadline, const Cancel* cancel, StreamStats& stats, PerSecond& per_second);

  /// Prepares and starts the last branch with the buffers that the running stream has. Errors: ENOBUFS (too few), those
  /// of the branch's devices. In that case the branch is unchanged and stopped.
  Result<void> join(const StreamRequest& request, const std::vector<Allocator*>& allocators);
  /// Delivers the branch's frames in flight, as stop() does for all branches, stops it, and removes it.
  Result<void> remove(std::size_t index, Deadline deadline, const Cancel* cancel, StreamStats& stats,
                      PerSecond& per_second);
  /// Stops a branch whose device failed. The branch is kept for its counters.
  void fail(std::size_t index, StreamStats& stats, PerSecond& per_second);
  [[nodiscard]] bool has_branch_left() const noexcept {
    return std::ranges::any_of(branches_, [](const Branch& one) { return one.state() != Branch::State::failed; });
  }
  /// Releases every frame that no sink has accepted yet.
  void discard(StreamStats& stats) noexcept;

  /// Takes one frame from the source, if there is one, and gives every branch its hold. True if there was one.
  std::expected<bool, Failed> take(StreamStats& stats);
  /// Whether the source may have more frames after the most that one iteration takes.
  [[nodiscard]] bool has_more() const noexcept { return has_more_; }
  void set_more(bool more) noexcept { has_more_ = more; }
  /// True if the frame just taken is so old that newer ones have probably arrived, and only the newest is wanted for
  /// stages that may be slow: then take the newer ones first. At most most_behind times in a row.
  [[nodiscard]] bool is_behind() const noexcept { return behind_ > 0 && behind_ <= most_behind; }
  void caught_up() noexcept { behind_ = 0; }
  /// False if frames are returned only inside calls that the loop itself makes.
  [[nodiscard]] bool must_be_woken() const noexcept { return must_be_woken_; }
  /// Moves frames on in every branch and submits them, planes of one output together, until nothing moves. On an error
  /// the other branches may not have moved their frames as far as possible: call it again.
  std::expected<void, Failed> advance(StreamStats& stats);
  /// Gives returned buffers back to the source and lets it handle its events.
  Result<void> serve_source(short revents) { return source_->dispatch(revents); }
  /// Collects reports of presented frames.
  void collect(StreamStats& stats, PerSecond& per_second);
  /// Brings the counters up to date: what devices dropped, what waits, what was copied.
  void count(StreamStats& stats) noexcept;
  /// True once after any participant changed so that the plan is no longer valid.
  [[nodiscard]] bool take_changed() noexcept;

 private:
  static constexpr std::uint32_t most_behind = 32;  // as many buffers as a camera has
  struct Made {                                     // a link's buffers, and the participants that get them
    Plan plan;
    std::vector<Buffer> buffers;
    std::vector<Consumer*> consumers;
    Producer* producer = nullptr;
  };
  /// A link before it is negotiated. The source's link reaches into every branch; a stage's link belongs to one.
  struct Part {
    Link link;
    std::optional<std::size_t> branch;  // nullopt: the source's link
    std::size_t place = 0;              // index in the branch's stages: directly after the producer
  };
  [[nodiscard]] std::size_t index_of(const Branch& branch) const noexcept {
    return static_cast<std::size_t>(&branch - branches_.data());
  }
  [[nodiscard]] std::vector<Part> parts() const;
  [[nodiscard]] std::vector<Consumer*> consumers_in(const Branch& branch) const;
  [[nodiscard]] bool is_copy(const void* participant) const noexcept;
  Result<void> check_names(const StreamRequest& request, const std::vector<Allocator*>& allocators) const;
  void finish_branch(std::size_t index, Deadline deadline, const Cancel* cancel, StreamStats& stats,
                     Result<void>& result);
  [[nodiscard]] std::span<const Buffer> inputs_of(const Consumer& consumer) const noexcept;
  [[nodiscard]] std::vector<Buffer> outputs_of(const Producer& producer) const;
  [[nodiscard, gnu::noinline]] bool is_late(const FrameInfo& info) const noexcept;
  static std::expected<Made, Refused> make(Link link);
  [[nodiscard]] StreamRequest wishes_for(const Part& part, const StreamRequest& request) const;
  [[nodiscard]] static bool may_copy(const Branch& branch, const StreamRequest& request) noexcept;
  [[nodiscard]] bool allows_copies(const StreamRequest& request) const noexcept {
    return std::ranges::any_of(branches_, [&](const Branch& branch) { return may_copy(branch, request); });
  }
  bool insert_copies(const Part& part, const StreamRequest& request);
  std::expected<void, Refused> make_part(std::size_t index, const StreamRequest& request,
                                         const std::vector<Allocator*>& allocators);
  Result<void> settle(const Branch& branch) const;
  Result<void> check_spare(const Branch& added) const;
  Result<void> start_branch(const Branch& branch) const;
  Result<void> stop_branch(std::size_t index, StreamStats& stats);
  void take_out(const Branch& branch);
  std::expected<void, Failed> note_buffers();
  [[nodiscard]] std::optional<std::size_t> branch_of(const Consumer& consumer) const noexcept;
  void note_traits() noexcept;
  [[gnu::noinline]] std::expected<bool, Failed> add_buffers_and_pass_on(Frame& frame, StreamStats& stats);
  std::expected<bool, Failed> pass_on(Frame& frame, StreamStats& stats);
  [[gnu::noinline]] void give_to_branches(Frame frame, StreamStats& stats, Result<void>& result) noexcept;

  Source* source_;
  std::vector<Branch> branches_;
  std::list<CopyStage> copies_;
  std::vector<Made> made_;
  std::optional<StreamRequest> request_;
  std::uint64_t copied_before_ = 0;  // by stages of earlier runs
  std::uint64_t copied_ = 0;         // by all
  std::uint64_t starts_ = 0;
  std::size_t poll_index_ = no_poll;
  std::uint64_t next_sequence_ = 0;
  std::uint32_t behind_ = 0;          // late frames in a row
  std::uint32_t buffer_changes_ = 0;  // HoldSet::changes() when the consumers were last informed
  bool may_be_behind_ = false;
  bool must_be_woken_ = true;
  std::array<Presentation, 32> reports_{};  // collect() reads into it
  bool any_frame_ = false;
  bool ended_ = false;
  bool is_running_ = false;
  bool is_off_ = false;
  bool has_more_ = false;
};

}  // namespace dmaflow::detail
