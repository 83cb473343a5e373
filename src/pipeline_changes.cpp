// Changes to a pipeline while it runs.
#include "pipeline_impl.hpp"

#include <cerrno>
#include <utility>

namespace dmaflow {
using detail::Branch;
using detail::Stream;

/// Not allowed from inside a device's call: the loop is then in the middle of serving the streams.
Result<void> Pipeline::Impl::check_quiet(const char* operation) const {
  if (!serving) return {};
  return std::unexpected(
      Error::os(EBUSY, operation).detail("called from inside a function that the loop called: post it to a TaskQueue"));
}

Result<Pipeline::Impl::Place> Pipeline::Impl::place_of(const Sink& sink, const char* operation) const {
  for (std::size_t s = 0; s < streams.size(); ++s) {
    const auto& branches = streams[s].branches();
    const auto found = std::ranges::find_if(branches, [&](const Branch& branch) { return &branch.sink() == &sink; });
    if (found != branches.end())
      return Place{.stream = s, .branch = static_cast<std::size_t>(found - branches.begin())};
  }
  return std::unexpected(Error::os(EINVAL, operation, sink.name()).detail("no branch has this sink"));
}

Result<std::size_t> Pipeline::Impl::find_stream(const Source& source, const char* operation) {
  const auto found = stream_of(source);
  if (found != streams.end()) return index_of(found);
  return std::unexpected(Error::os(EINVAL, operation, source.name()).detail("it has no branch: connect() first"));
}

/// To be called after streams or branches were added or removed.
Result<void> Pipeline::Impl::note_change() {
  ++changes;
  if (!running) return {};
  reserve();
  note_plans();
  if (!epoll) return {};
  epoll->distrust();
  return arm();
}

/// Starts the last branch of the stream, which is new. On an error it is removed again, and the others continue.
Result<void> Pipeline::Impl::begin_branch(std::size_t index) {
  Stream& stream = streams[index];
  const bool is_first = stream.branches().size() == 1;
  const bool may_restart = stream.branches().back().may_restart();
  Result<void> begun;
  if (stream.is_running()) {
    begun = stream.join(wishes_for(index), allocators);
    if (!begun && may_restart) begun = restart(index, wishes_for(index), Deadline::after(drain_time));
  } else if (is_first) {
    stream.set_off(false);
    begun = bring_up(index, wishes_for(index));
  }  // else it was stopped individually, or waits for its signal: the next start includes the branch
  if (!begun) {
    const bool was_stopped = !stream.is_running() && !is_first;
    stream.branches().pop_back();
    stats.streams[index].branches.pop_back();
    stream.set_off(stream.branches().empty());
    if (was_stopped) {  // the restart failed: start it as before
      const auto again = bring_up(index, wishes_for(index));
      if (!again) begun = survive(index, {.branch = {}, .error = again.error()});
    }
  }
  auto noted = note_change();
  return begun ? noted : begun;
}

/// Delivers the frames in flight, negotiates the stream with these wishes and starts it.
Result<void> Pipeline::Impl::restart(std::size_t index, const StreamRequest& wishes, Deadline deadline) {
  ++stats.streams[index].renegotiations;
  const auto stopped = stop_stream(index, deadline, nullptr);
  // Frames that were not delivered in time are counted; that is no reason to give up.
  if (!stopped && stopped.error().code() != ETIMEDOUT) return stopped;
  return bring_up(index, wishes);
}

Result<void> Pipeline::remove(const Sink& sink, Deadline deadline, const Cancel* cancel) {
  Impl& impl = *impl_;
  if (auto quiet = impl.check_quiet("Pipeline::remove"); !quiet) return quiet;
  const auto place = impl.place_of(sink, "Pipeline::remove");
  if (!place) return std::unexpected(place.error());
  Stream& stream = impl.streams[place->stream];
  StreamStats& stats = impl.stats.streams[place->stream];
  if (impl.epoll) impl.epoll->distrust();
  auto removed = stream.remove(place->branch, deadline, cancel, stats, impl.per_second);
  if (stream.branches().empty() || !stream.has_branch_left()) {
    if (impl.running && stream.is_running()) {
      const auto stopped = impl.stop_stream(place->stream, deadline, cancel);
      if (removed && !stopped) removed = stopped;
    }
    stream.set_off(true);
  }
  const auto noted = impl.note_change();
  return removed ? noted : removed;
}

Result<void> Pipeline::pause(const Sink& sink) {
  const auto place = impl_->place_of(sink, "Pipeline::pause");
  if (!place) return std::unexpected(place.error());
  Branch& branch = impl_->streams[place->stream].branches()[place->branch];
  if (branch.state() == Branch::State::flowing) branch.set_state(Branch::State::paused);
  return {};
}

Result<void> Pipeline::resume(const Sink& sink) {
  const auto place = impl_->place_of(sink, "Pipeline::resume");
  if (!place) return std::unexpected(place.error());
  Branch& branch = impl_->streams[place->stream].branches()[place->branch];
  if (branch.state() == Branch::State::failed) {
    return std::unexpected(
        Error::os(EINVAL, "Pipeline::resume", sink.name()).detail("it failed: remove() it, then connect() it again"));
  }
  branch.set_state(Branch::State::flowing);
  return {};
}

Result<void> Pipeline::discard(const Source& source) {
  const auto index = impl_->find_stream(source, "Pipeline::discard");
  if (!index) return std::unexpected(index.error());
  impl_->streams[*index].discard(impl_->stats.streams[*index]);
  return {};
}

Result<void> Pipeline::reconfigure(const Source& source, StreamRequest wanted, Deadline deadline) {
  Impl& impl = *impl_;
  if (auto quiet = impl.check_quiet("Pipeline::reconfigure"); !quiet) return quiet;
  const auto index = impl.find_stream(source, "Pipeline::reconfigure");
  if (!index) return std::unexpected(index.error());
  Stream& stream = impl.streams[*index];
  if (!impl.running || stream.is_off()) {
    return std::unexpected(
        Error::os(EBUSY, "Pipeline::reconfigure", source.name()).detail("it does not run: request() it, and start()"));
  }
  auto done = impl.restart(*index, wanted, deadline);
  if (done) {
    stream.set_request(std::move(wanted));
  } else {  // the stream continues as it was; the refusal is kept
    auto refusal = std::exchange(impl.refusal, std::nullopt);
    const auto again = impl.bring_up(*index, impl.wishes_for(*index));
    if (!again) done = impl.survive(*index, {.branch = {}, .error = again.error()});
    if (again) impl.refusal = std::move(refusal);
  }
  const auto noted = impl.note_change();
  return done ? noted : done;
}

Result<void> Pipeline::stop(const Source& source, Deadline deadline, const Cancel* cancel) {
  Impl& impl = *impl_;
  if (auto quiet = impl.check_quiet("Pipeline::stop"); !quiet) return quiet;
  const auto index = impl.find_stream(source, "Pipeline::stop");
  if (!index) return std::unexpected(index.error());
  Stream& stream = impl.streams[*index];
  if (!impl.running || stream.is_off()) return {};
  auto stopped = impl.stop_stream(*index, deadline, cancel);
  stream.set_off(true);
  const auto noted = impl.note_change();
  return stopped ? noted : stopped;
}

Result<void> Pipeline::start(const Source& source) {
  Impl& impl = *impl_;
  if (auto quiet = impl.check_quiet("Pipeline::start"); !quiet) return quiet;
  const auto index = impl.find_stream(source, "Pipeline::start");
  if (!index) return std::unexpected(index.error());
  Stream& stream = impl.streams[*index];
  if (!impl.running || stream.branches().empty()) {
    return std::unexpected(
        Error::os(EBUSY, "Pipeline::start", source.name())
            .detail(impl.running ? "it has no branch: connect() starts it" : "the pipeline does not run"));
  }
  if (!stream.is_off() && !stream.ended()) return {};
  if (!stream.is_off()) static_cast<void>(impl.stop_stream(*index, Deadline::after(Impl::drain_time), nullptr));
  stream.retry_failed();
  stream.set_off(false);
  const auto started = impl.bring_up(*index, impl.wishes_for(*index));
  if (!started) stream.set_off(true);
  const auto noted = impl.note_change();
  return started ? noted : started;
}

}  // namespace dmaflow
