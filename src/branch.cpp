#include "branch.hpp"

#include <algorithm>
#include <ranges>
#include <utility>

namespace dmaflow::detail {

Branch::Branch(std::string name, Sink& sink, BranchOptions options)
    : name_(std::move(name)), sink_(&sink), options_(std::move(options)) {
  if (!options_.request || !options_.request->interval) return;
  const Interval wanted = *options_.request->interval;
  if (wanted.denominator != 0)
    interval_ = std::chrono::nanoseconds(std::chrono::seconds(wanted.numerator)) / wanted.denominator;
}

// Time stamps jitter: a frame counts as on time an eighth of the interval before. The times that frames are due are
// that far apart, so that the mean rate is kept; after a gap they begin anew.
bool Branch::is_next_due(std::chrono::nanoseconds timestamp) noexcept {
  const bool is_new = !next_ || timestamp < *next_ - 2 * interval_ || timestamp >= *next_ + interval_;
  if (!is_new && timestamp < *next_ - interval_ / 8) return false;
  next_ = (is_new ? timestamp : *next_) + interval_;
  return true;
}

bool Branch::has(const Pollable* object) const noexcept {
  return object == sink_ || std::ranges::any_of(options_.stages, [&](const Stage* one) { return object == one; });
}

std::uint32_t Branch::max_queued() const noexcept {
  if (!wants_newest()) return options_.max_queued;
  return options_.stages.empty() ? 0 : 1;  // the sink's own staging slot holds the newest
}

void Branch::begin() noexcept {
  in_stages_ = 0;
  discard_before_ = 0;
  next_.reset();
  BranchStats unused;
  count(unused);
}

bool Branch::entry_takes() const noexcept {
  return options_.stages.empty() ? sink_takes() : options_.stages.front()->ready();
}

Branch::Blocker Branch::blocker() const noexcept {
  const auto look = [](const auto& object) -> Blocker {
    if (object.is_waiting()) return {};
    return {.name = object.name(), .waits_for_fence = object.waiting_fence() >= 0};
  };
  if (!sink_->ready()) return look(*sink_);
  for (const Stage* stage : std::views::reverse(options_.stages)) {
    if (!stage->ready()) return look(*stage);
  }
  return {};
}

Result<void> Branch::feed_stage(std::size_t index, Frame frame, BranchStats& stats) {
  if (auto taken = options_.stages[index]->accept(std::move(frame)); !taken) {
    ++stats.failed;
    return taken;
  }
  ++in_stages_;
  ++moves_;
  return {};
}

/// A frame left a stage. If more come out than went in, the stages made them.
void Branch::note_left(BranchStats& stats) noexcept {
  if (in_stages_ == 0) {
    ++stats.added;
  } else {
    --in_stages_;
  }
}

// Only Policy::on_time reads the clock.
bool Branch::is_due(const Frame& frame, Deadline::Clock::time_point now) const noexcept {
  return now.time_since_epoch() >= frame.info().target - sink_->lead_time();
}

bool Branch::look_whether_due(BranchStats& stats) noexcept {
  const auto now = Deadline::Clock::now();
  while (count_ > 1 && is_due(queue_[(first_ + 1) % max_queue], now)) {
    pop().release();
    ++stats.dropped.late;
  }
  return is_due(queue_[first_], now);
}

std::optional<Deadline> Branch::first_due() const noexcept {
  if (count_ == 0 || !entry_takes()) return std::nullopt;
  const auto due = queue_[first_].info().target - sink_->lead_time();
  return Deadline::at(Deadline::Clock::time_point(std::chrono::duration_cast<Deadline::Clock::duration>(due)));
}

void Branch::discard_before(std::uint64_t sequence, BranchStats& stats) noexcept {
  discard_before_ = sequence;
  for (; count_ > 0; ++stats.dropped.discarded) pop().release();
}

// Starts at the sink's end, so that each step frees a slot for the next. @p between: set if a frame went from one stage
// to the next, which may have finished it at once.
Result<bool> Branch::move_through(BranchStats& stats, bool& between) {
  auto left = leave_stages(stats, between);
  if (!left || count_ == 0 || !entry_takes() || !first_is_due(stats)) return left;
  if (auto taken = feed_stage(0, pop(), stats); !taken) return std::unexpected(taken.error());
  between = true;
  return left;
}

/// Takes the frames that stages have finished. True if the sink got one.
Result<bool> Branch::leave_stages(BranchStats& stats, bool& between) {
  bool fed = false;
  const auto& stages = options_.stages;
  for (std::size_t i = stages.size(); i-- > 0;) {
    const bool last = i + 1 == stages.size();
    while (last ? sink_takes() : stages[i + 1]->ready()) {
      auto frame = stages[i]->take();
      if (!frame) {  // the frame it was working on, if any, is lost
        if (in_stages_ > 0) {
          --in_stages_;
          ++stats.failed;
        }
        return std::unexpected(frame.error());
      }
      if (!*frame) break;
      note_left(stats);
      if (frame->info().sequence < discard_before_) {
        frame->release();
        ++stats.dropped.discarded;
        continue;
      }
      if (!last) {
        if (auto taken = feed_stage(i + 1, std::move(*frame), stats); !taken) return std::unexpected(taken.error());
        between = true;
        continue;
      }
      if (auto taken = feed_sink(std::move(*frame), stats); !taken) return std::unexpected(taken.error());
      fed = true;
      if (!wants_newest()) break;  // one at a time, with a flush after each
    }
  }
  return fed;
}

Result<bool> Branch::advance_stages(BranchStats& stats) {
  bool fed = false;
  bool between = true;
  while (between) {
    between = false;
    const auto moved = move_through(stats, between);
    if (!moved) return moved;
    fed = fed || *moved;
  }
  return fed;
}

void Branch::count_drops(BranchStats& stats) noexcept {
  const auto sink_dropped = sink_->dropped();
  const auto by_sink = std::min(sink_dropped - sink_dropped_, stats.delivered);
  sink_dropped_ = sink_dropped;
  stats.delivered -= by_sink;
  std::uint64_t stages_dropped = 0;
  for (const Stage* stage : options_.stages) stages_dropped += stage->dropped();
  const auto by_stages = std::min(stages_dropped - stages_dropped_, in_stages_);
  stages_dropped_ = stages_dropped;
  in_stages_ -= by_stages;
  stats.dropped.by_device += by_sink + by_stages;
  stats.held = count_ + in_stages_;
}

void Branch::finish(BranchStats& stats) noexcept {
  count(stats);
  stats.dropped.at_stop += count_ + std::exchange(in_stages_, 0);
  while (count_ > 0) pop().release();
  stats.held = 0;
}

}  // namespace dmaflow::detail
