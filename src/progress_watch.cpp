#include "progress_watch.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow::detail {
namespace {

double seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

ProgressWatch::ProgressWatch(std::span<const Stream> streams, std::chrono::nanoseconds limit)
    : streams_(streams), limit_(limit), sources_(streams.size()) {
  for (const Stream& stream : streams) branches_.emplace_back(stream.branches().size());
}

void ProgressWatch::begin(Time now) noexcept {
  for (Mark& mark : sources_) mark.since = now;
  for (auto& branches : branches_) {
    for (Mark& mark : branches) mark.since = now;
  }
}

bool ProgressWatch::is_over(const Mark& mark, Time now) const noexcept {
  return mark.counts && now - mark.since >= limit_;
}

ProgressWatch::Time ProgressWatch::next() const noexcept {
  Time first = Time::max();
  const auto look = [&](const Mark& mark) {
    if (mark.counts && limit_ < Time::max() - mark.since) first = std::min(first, mark.since + limit_);
  };
  for (const Mark& mark : sources_) look(mark);
  for (const auto& branches : branches_) std::ranges::for_each(branches, look);
  return first;
}

std::expected<void, ProgressWatch::Stalled> ProgressWatch::check(std::span<const StreamStats> stats, Time now) {
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    // The branches first: a source that has no buffers left is not at fault if a display keeps them.
    for (std::size_t b = 0; b < branches_[i].size(); ++b) {
      if (!streams_[i].is_running() || streams_[i].branches()[b].state() == Branch::State::failed) {
        branches_[i][b].counts = false;
        continue;
      }
      const auto checked =
          check_branch(streams_[i].branches()[b], branches_[i][b], stats[i].branches[b].presented, now);
      if (!checked) return std::unexpected(Stalled{.stream = i, .branch = b, .error = checked.error()});
    }
    if (auto checked = check_source(i, stats[i].captured, now); !checked)
      return std::unexpected(Stalled{.stream = i, .branch = {}, .error = checked.error()});
  }
  return {};
}

Result<void> ProgressWatch::check_source(std::size_t index, std::uint64_t captured, Time now) {
  const Stream& stream = streams_[index];
  Mark& mark = sources_[index];
  const Source& source = stream.source();
  // A start counts as progress, because a renegotiation takes time.
  const std::uint64_t count = captured + stream.starts();
  mark.counts = stream.is_running() && !stream.ended() && stream.has_room() && !source.is_waiting();
  if (count != mark.count || !mark.counts) {
    mark.count = count;
    mark.since = now;
  }
  if (!is_over(mark, now)) return {};
  const HoldSet* holds = stream.source().holds();
  const auto lent = holds != nullptr ? holds->lent() : 0;
  const auto all = holds != nullptr ? holds->buffers().size() : 0;
  Error error = Error::os(ETIMEDOUT, "Pipeline::run", source.name());
  if (all != 0 && all - std::min<std::size_t>(lent, all) < source.min_buffers()) {
    error.detail(
        "no frame came for %.1f s: %u of its %zu buffers are held by consumers, and it needs %u; %llu frames "
        "were captured before",
        seconds(limit_), lent, all, source.min_buffers(), static_cast<unsigned long long>(captured));
  } else {
    error.detail("no frame came for %.1f s; %llu were captured before", seconds(limit_),
                 static_cast<unsigned long long>(captured));
  }
  return std::unexpected(error);
}

Result<void> ProgressWatch::check_branch(const Branch& branch, Mark& mark, std::uint64_t presented, Time now) const {
  const auto blocker = branch.blocker();
  const std::uint64_t count = branch.moves() + presented;
  mark.counts = !blocker.name.empty();
  if (count != mark.count || !mark.counts) {
    mark.count = count;
    mark.since = now;
  }
  if (!is_over(mark, now)) return {};
  return std::unexpected(Error::os(ETIMEDOUT, "Pipeline::run", blocker.name)
                             .detail("it took no frame of branch %s for %.1f s%s", branch.name().c_str(),
                                     seconds(limit_),
                                     blocker.waits_for_fence ? ": the fence of a frame has not signalled" : ""));
}

}  // namespace dmaflow::detail
