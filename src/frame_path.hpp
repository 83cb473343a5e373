// What every frame passes through, and every iteration of the loop: inline, so that it is compiled into the loop as
// one.
#pragma once

#include "stream.hpp"

#include <cerrno>
#include <chrono>
#include <span>
#include <utility>

namespace dmaflow::detail {

inline std::expected<bool, Failed> Stream::take(StreamStats& stats) {
  auto taken = source_->take();
  if (!taken) [[unlikely]] {
    if (taken.error().code() != EPIPE) return std::unexpected(Failed{std::nullopt, taken.error()});
    ended_ = true;
    return false;
  }
  if (!*taken) return false;
  const HoldSet* holds = source_->holds();
  if (holds != nullptr && holds->changes() != buffer_changes_) [[unlikely]]
    return add_buffers_and_pass_on(*taken, stats);
  return pass_on(*taken, stats);
}

/// Counts a frame and gives it to the branches.
inline std::expected<bool, Failed> Stream::pass_on(Frame& frame, StreamStats& stats) {
  const FrameInfo& info = frame.info();
  ++stats.captured;
  if (info.is_erroneous) ++stats.erroneous;
  if (any_frame_ && info.sequence > next_sequence_) stats.lost += info.sequence - next_sequence_;
  next_sequence_ = info.sequence + 1;
  any_frame_ = true;
  if (info.is_last) ended_ = true;
  behind_ = may_be_behind_ && !ended_ && is_late(info) ? behind_ + 1 : 0;

  if (branches_.size() == 1 && branches_.front().state() == Branch::State::flowing && branches_.front().wants(info)) {
    branches_.front().offer(std::move(frame), stats.branches.front());
    return true;
  }
  Result<void> given;
  give_to_branches(std::move(frame), stats, given);
  if (!given) return std::unexpected(Failed{std::nullopt, given.error()});
  return true;
}

inline std::expected<void, Failed> Stream::advance(StreamStats& stats) {
  bool goes_on = true;
  while (goes_on) {
    bool moved = false;
    BranchStats* counts = stats.branches.data();
    for (Branch& branch : branches_) {
      BranchStats& of_branch = *counts++;
      if (branch.state() == Branch::State::failed) continue;
      const auto fed = branch.advance(of_branch);
      if (!fed) [[unlikely]]
        return std::unexpected(Failed{index_of(branch), fed.error()});
      moved |= *fed;
    }
    if (!moved) break;
    goes_on = false;
    for (Branch& branch : branches_) {
      if (branch.state() == Branch::State::failed) continue;
      if (auto flushed = branch.sink().flush(); !flushed) [[unlikely]]
        return std::unexpected(Failed{index_of(branch), flushed.error()});
      goes_on |= branch.may_have_more();
    }
  }
  return {};
}

inline void Stream::collect(StreamStats& stats, PerSecond& per_second) {
  BranchStats* counts = stats.branches.data();
  for (Branch& branch : branches_) {
    BranchStats& of_branch = *counts++;
    if (branch.state() == Branch::State::failed) continue;
    for (std::size_t count = reports_.size(); count == reports_.size();) {
      count = branch.sink().take_presented(reports_);
      for (const Presentation& report : std::span(reports_).first(count)) {
        ++of_branch.presented;
        if (branch.has_latency()) of_branch.latency.add(report.presented - report.captured);
        if (&branch == branches_.data()) per_second.add(report.presented);
        branch.report(report);
      }
    }
  }
}

inline void Stream::count(StreamStats& stats) noexcept {
  if (!is_running_) return;
  copied_ = copied_before_;
  BranchStats* counts = stats.branches.data();
  for (Branch& branch : branches_) {
    for (const Stage* stage : branch.stages()) copied_ += stage->bytes_copied();
    if (branch.state() != Branch::State::failed) branch.count(*counts);
    ++counts;
  }
  stats.bytes_copied = copied_;
}

inline void PerSecond::add(std::chrono::nanoseconds presented) noexcept {
  if (presented < first) return;
  const auto since = presented - first;
  if (since < this_second || since >= this_second + std::chrono::seconds(1)) {
    this_second = std::chrono::floor<std::chrono::seconds>(since);
  }
  const auto second = static_cast<std::size_t>(this_second.count());
  recent->add(second);
  if (second >= counts->capacity()) return;
  if (second >= counts->size()) counts->resize(second + 1);  // within the capacity: no allocation
  ++(*counts)[second];
}

inline bool Stream::take_changed() noexcept {
  bool changed = source_->take_changed();
  for (const Branch& branch : branches_) {
    if (branch.state() == Branch::State::failed) continue;
    changed |= branch.sink().take_changed();
    for (Stage* stage : branch.stages()) changed |= stage->take_changed();
  }
  return changed;
}

}  // namespace dmaflow::detail
