#include "branch.hpp"

namespace dmaflow {

Branch::Branch(std::string name, Sink& sink, BranchOptions options)
    : name_(std::move(name)), sink_(&sink), options_(std::move(options)) {}

std::uint32_t Branch::max_queued() const noexcept {
  if (options_.policy == Policy::every_frame) return options_.max_queued;
  return options_.stages.empty() ? 0 : 1;  // the sink's own staging place holds the newest
}

Frame Branch::pop() noexcept {
  Frame frame = std::move(queue_[first_]);
  first_ = (first_ + 1) % max_queue;
  --count_;
  return frame;
}

void Branch::offer(Frame frame, BranchStats& stats) noexcept {
  if (options_.policy == Policy::latest && count_ > 0) {
    pop().release();
    ++stats.dropped;
  } else if (options_.policy == Policy::every_frame && count_ >= options_.max_queued) {
    ++stats.dropped;
    return;  // the new one goes: those that wait keep their order and their place
  }
  queue_[(first_ + count_) % max_queue] = std::move(frame);
  ++count_;
}

// A display replaces what it has not yet submitted; a recorder must have room.
bool Branch::sink_takes() const noexcept { return options_.policy == Policy::latest || sink_->ready(); }

bool Branch::entry_takes() const noexcept {
  return options_.stages.empty() ? sink_takes() : options_.stages.front()->ready();
}

Result<bool> Branch::feed_sink(Frame frame, BranchStats& stats) {
  auto displaced = sink_->accept(std::move(frame));
  if (!displaced) return std::unexpected(displaced.error());
  ++stats.delivered;
  if (*displaced) {
    --stats.delivered;
    ++stats.dropped;
  }
  return true;
}

Result<bool> Branch::advance(BranchStats& stats) {
  bool fed = false;
  bool between = false;  // a frame went from one stage to the next, which may have finished it at once
  const auto& stages = options_.stages;
  for (std::size_t i = stages.size(); i-- > 0;) {  // from the sink's end, so that each step makes room for the next
    const bool last = i + 1 == stages.size();
    while (last ? sink_takes() : stages[i + 1]->ready()) {
      auto frame = stages[i]->take();
      if (!frame) return std::unexpected(frame.error());
      if (!*frame) break;
      if (!last) {
        if (auto taken = stages[i + 1]->accept(std::move(*frame)); !taken) return std::unexpected(taken.error());
        between = true;
        continue;
      }
      if (auto taken = feed_sink(std::move(*frame), stats); !taken) return taken;
      fed = true;
      if (options_.policy == Policy::every_frame) break;  // one at a time, flushed between
    }
  }
  if (count_ > 0 && entry_takes()) {
    Frame frame = pop();
    if (stages.empty()) {
      if (auto taken = feed_sink(std::move(frame), stats); !taken) return taken;
      return true;
    }
    if (auto taken = stages.front()->accept(std::move(frame)); !taken) return std::unexpected(taken.error());
    between = true;
  }
  if (!between) return fed;
  auto further = advance(stats);
  return further ? Result<bool>(*further || fed) : further;
}

void Branch::clear(BranchStats& stats) noexcept {
  while (count_ > 0) {
    pop().release();
    ++stats.dropped;
  }
}

}  // namespace dmaflow
