// Changes to a stream while it runs: branches are added, are removed or fail, and waiting frames are discarded.
#include "stream.hpp"

#include "frame_path.hpp"

#include <algorithm>
#include <cerrno>
#include <vector>

namespace dmaflow::detail {
namespace {

/// Memory that a consumer moves cannot be used with a producer that keeps writing to its old location.
Result<void> check_moves(const Consumer& consumer, const Producer& producer, const Buffer& buffer) {
  if (!consumer.moves(buffer) || producer.writes_by_cpu()) return {};
  return std::unexpected(Error::os(ENOTSUP, "Pipeline", consumer.name())
                             .detail("it would move a running buffer, and %s would go on writing to where that was",
                                     std::string(producer.name()).c_str()));
}

/// The checks of negotiation for a consumer that is added later, which gets the existing buffers.
Result<void> try_consumer(Consumer& consumer, const Producer& producer, std::span<const Buffer> buffers) {
  const StreamConfig& config = producer.output();
  if (auto possible = consumer.check_input(config); !possible) return possible;
  if (auto ready = consumer.set_input(config); !ready) return ready;
  const auto takes = consumer.needs().modifiers;
  if (!takes.empty() && std::ranges::find(takes, config.layout.modifier) == takes.end()) {
    return std::unexpected(Error::os(EINVAL, "Pipeline::connect", consumer.name())
                               .detail("the running buffers have modifier %s, which it does not take",
                                       config.layout.modifier.name().c_str()));
  }
  for (const Buffer& buffer : buffers) {
    if (auto imported = consumer.import(buffer); !imported) return imported;
    if (auto stays = check_moves(consumer, producer, buffer); !stays) return stays;
  }
  return {};
}

}  // namespace

/// Checks that every consumer of the branch that uses the source's buffers can use the existing ones.
Result<void> Stream::settle(const Branch& branch) const {
  for (Consumer* consumer : consumers_in(branch)) {
    if (auto tried = try_consumer(*consumer, *source_, made_.front().buffers); !tried) return tried;
  }
  return {};
}

/// Checks that there are buffers for what the branch holds, in addition to those that all others need.
Result<void> Stream::check_spare(const Branch& added) const {
  const auto holds = [this](const Branch& branch) {
    std::uint32_t most = branch.max_queued();
    for (const Consumer* consumer : consumers_in(branch)) most += consumer->max_held();
    return most;
  };
  std::uint32_t needed = source_->min_buffers() + 1;
  for (const Branch& branch : branches_) {
    if (branch.state() != Branch::State::failed) needed += holds(branch);
  }
  const auto there = made_.front().buffers.size();
  if (needed <= there || source_->brings_buffers()) return {};
  return std::unexpected(
      Error::os(ENOBUFS, "Pipeline::connect", source_->name())
          .detail(
              "branch %s may hold %u buffers at once, and %u too few are there: ask for spare ones before the start "
              "(StreamRequest::spare_buffers), or allow a restart (BranchOptions::may_restart)",
              added.name().c_str(), holds(added), needed - static_cast<std::uint32_t>(there)));
}

std::optional<std::size_t> Stream::branch_of(const Consumer& consumer) const noexcept {
  for (std::size_t i = 0; i < branches_.size(); ++i) {
    const auto consumers = consumers_in(branches_[i]);
    if (std::ranges::find(consumers, &consumer) != consumers.end()) return i;
  }
  return std::nullopt;
}

/// If the source's buffers have changed, forgets those that left and lets every consumer import each new one. All
/// consumers are asked, even after one has refused.
std::expected<void, Failed> Stream::note_buffers() {
  const HoldSet* holds = source_->holds();
  buffer_changes_ = holds->changes();
  std::expected<void, Failed> result;
  Made& made = made_.front();
  const auto there = holds->buffers();
  std::erase_if(made.buffers, [&](const Buffer& buffer) {
    if (std::ranges::find(there, buffer) != there.end()) return false;
    for (Consumer* consumer : made.consumers) consumer->remove_buffer(buffer);
    return true;
  });
  for (const Buffer& buffer : there) {
    if (!buffer || std::ranges::find(made.buffers, buffer) != made.buffers.end()) continue;
    made.buffers.push_back(buffer);
    for (Consumer* consumer : made.consumers) {
      const auto branch = branch_of(*consumer);
      if (branch && branches_[*branch].state() == Branch::State::failed) continue;
      auto added = consumer->add_buffer(buffer);
      if (added) added = check_moves(*consumer, *source_, buffer);
      if (result && !added) result = std::unexpected(Failed{branch, added.error()});
    }
  }
  return result;
}

Result<void> Stream::join(const StreamRequest& request, const std::vector<Allocator*>& allocators) {
  const std::size_t index = branches_.size() - 1;
  Branch& branch = branches_[index];
  auto joined = check_names(request, allocators);
  if (joined) joined = settle(branch);
  if (!joined && may_copy(branch, request)) {
    branch.insert(0, copies_.emplace_back());
    joined = settle(branch);
  }
  if (joined) joined = check_spare(branch);
  for (std::size_t i = 1; joined && i < parts().size(); ++i) {
    if (parts()[i].branch != index) continue;
    if (auto made = make_part(i, request, allocators); !made) joined = std::unexpected(made.error().error);
  }
  if (joined) {
    for (Consumer* consumer : consumers_in(branch)) made_.front().consumers.push_back(consumer);
    branch.begin();
    joined = start_branch(branch);
  }
  if (!joined) {
    for (Stage* stage : branch.stages()) static_cast<void>(stage->stop());
    static_cast<void>(branch.sink().stop());
    take_out(branch);
  }
  note_traits();
  return joined;
}

/// Forgets the links of a branch, and the copies inserted into it.
void Stream::take_out(const Branch& branch) {
  const auto stages = branch.stages();
  const auto is_its = [&](const Consumer* one) {
    return one == &branch.sink() || std::ranges::any_of(stages, [&](const Stage* stage) { return one == stage; });
  };
  std::erase_if(made_, [&](const Made& made) {
    return std::ranges::any_of(stages, [&](const Stage* stage) { return made.producer == stage; });
  });
  for (Made& made : made_) std::erase_if(made.consumers, is_its);
  std::vector<const CopyStage*> its_copies;
  for (const CopyStage& copy : copies_) {
    if (std::ranges::find(stages, static_cast<const Stage*>(&copy)) != stages.end()) its_copies.push_back(&copy);
  }
  for (const CopyStage* copy : its_copies) {
    copied_before_ += copy->bytes_copied();
    for (Branch& one : branches_) one.remove(*copy);
    copies_.remove_if([&](const CopyStage& one) { return &one == copy; });
  }
}

/// Stops its stages and its sink, and counts the frames that they did not finish.
Result<void> Stream::stop_branch(std::size_t index, StreamStats& stats) {
  Branch& branch = branches_[index];
  if (branch.state() == Branch::State::failed) return {};
  Result<void> result;
  const auto keep_first = [&result](const Result<void>& next) {
    if (result && !next) result = next;
  };
  for (Stage* stage : branch.stages()) keep_first(stage->stop());
  keep_first(branch.sink().stop());
  branch.finish(stats.branches[index]);
  return result;
}

Result<void> Stream::remove(std::size_t index, Deadline deadline, const Cancel* cancel, StreamStats& stats,
                            PerSecond& per_second) {
  Result<void> result;
  if (is_running_) {
    finish_branch(index, deadline, cancel, stats, result);
    collect(stats, per_second);
    count(stats);
    const auto stopped = stop_branch(index, stats);
    if (result && !stopped) result = stopped;
    for (const Stage* stage : branches_[index].stages()) {
      if (!is_copy(static_cast<const Producer*>(stage))) copied_before_ += stage->bytes_copied();
    }
  }
  take_out(branches_[index]);
  const auto at = static_cast<std::ptrdiff_t>(index);
  stats.removed.push_back(std::move(stats.branches[index]));
  stats.branches.erase(stats.branches.begin() + at);
  branches_.erase(branches_.begin() + at);
  note_traits();
  return result;
}

void Stream::fail(std::size_t index, StreamStats& stats, PerSecond& per_second) {
  collect(stats, per_second);
  count(stats);
  static_cast<void>(stop_branch(index, stats));
  branches_[index].set_state(Branch::State::failed);
}

void Stream::discard(StreamStats& stats) noexcept {
  for (std::size_t i = 0; i < branches_.size(); ++i) {
    if (branches_[i].state() != Branch::State::failed) branches_[i].discard_before(next_sequence_, stats.branches[i]);
  }
  count(stats);
}

}  // namespace dmaflow::detail
