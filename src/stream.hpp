// One source with its branches: the links that are negotiated, the buffers, and the way of a frame.
#pragma once

#include "branch.hpp"

#include <dmaflow/copy_stage.hpp>
#include <dmaflow/pipeline.hpp>

#include <array>
#include <list>
#include <memory>
#include <vector>

namespace dmaflow {

/// Presented frames by second, in a table with room made beforehand.
struct PerSecond {
  std::vector<std::uint32_t>* counts = nullptr;
  std::chrono::nanoseconds first{0};  // when the first frame came, CLOCK_MONOTONIC

  void add(std::chrono::nanoseconds presented) const noexcept;
};

class Stream {
 public:
  explicit Stream(Source& source) : source_(&source) {}

  [[nodiscard]] Source& source() const noexcept { return *source_; }
  [[nodiscard]] std::vector<Branch>& branches() noexcept { return branches_; }
  [[nodiscard]] bool ended() const noexcept { return ended_; }

  /// Negotiates every link, makes its buffers and imports them. On refusal nothing is kept.
  std::expected<std::vector<Plan>, Refused> prepare(const StreamRequest& request,
                                                    const std::vector<Allocator*>& allocators);
  /// Lets go of buffers, and of the copies a plan put in.
  void forget() noexcept;
  /// Starts sinks, stages, then the source.
  Result<void> start();
  /// Waits for what is under way, then stops the source, the stages and the sinks, in this order.
  Result<void> stop(Deadline deadline, StreamStats& stats, PerSecond& per_second);

  /// Takes one frame from the source, if there is one, and gives every branch its hold. True where there was one.
  Result<bool> take(StreamStats& stats);
  /// True where the frame just taken is so old that newer ones have likely come, and only the newest is wanted by
  /// stages that may take their time: then look for those first. Not without end.
  [[nodiscard]] bool is_behind() const noexcept { return behind_ > 0 && behind_ <= most_behind; }
  void caught_up() noexcept { behind_ = 0; }
  /// False where frames come back only inside calls of the loop's own.
  [[nodiscard]] bool must_be_woken() const noexcept { return must_be_woken_; }
  /// Moves frames on in every branch and submits them, planes of one output together, until nothing moves.
  Result<void> advance(StreamStats& stats);
  /// Gives returned buffers back to the source and lets it handle its events.
  Result<void> serve_source(short revents) { return source_->dispatch(revents); }
  /// Collects reports of presented frames.
  void collect(StreamStats& stats, PerSecond& per_second) noexcept;
  /// True once after any participant changed so that the plan no longer holds.
  [[nodiscard]] bool take_changed() noexcept;

 private:
  static constexpr std::uint32_t most_behind = 32;  // as many buffers as a camera has
  struct Made {                                     // a link's buffers, and who is to get them
    Plan plan;
    std::vector<Buffer> buffers;
    std::vector<Importer*> consumers;
    Producer* producer = nullptr;
  };
  [[nodiscard]] std::vector<Link> links() const;
  [[nodiscard]] std::span<const Buffer> inputs_of(const Importer& consumer) const noexcept;
  [[nodiscard]] std::vector<Buffer> outputs_of(const Producer& producer) const;
  [[nodiscard]] bool is_late(const FrameInfo& info) const noexcept;
  std::expected<Made, Refused> make(Link link);
  bool insert_copies(const StreamRequest& request, const std::vector<Allocator*>& allocators);

  Source* source_;
  std::vector<Branch> branches_;
  std::list<CopyStage> copies_;
  std::vector<Made> made_;
  std::uint64_t next_sequence_ = 0;
  std::uint32_t behind_ = 0;  // late frames in a row
  bool may_be_behind_ = false;
  bool must_be_woken_ = true;
  std::array<Presentation, 32> reports_{};  // of which collect() uses some
  bool any_frame_ = false;
  bool ended_ = false;
};

}  // namespace dmaflow
