// One iteration of the pipeline's loop.
#include "pipeline_impl.hpp"

#include "frame_path.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace dmaflow {
namespace {

/// A source that always has a frame must not keep the others waiting.
constexpr int most_frames_per_turn = 32;

/// The signal is lost; the source reports when it is back.
bool is_no_signal(const Error& error) noexcept { return error.code() == ENOLINK || error.code() == ENOLCK; }

}  // namespace

// --- Waiting

std::size_t Pipeline::Impl::wait_for(int fd, short events, const Entry& entry) {
  if (fd < 0 || events == 0) return Stream::no_poll;
  polls.push_back({.fd = fd, .events = events, .revents = 0});
  entries.push_back(entry);
  return polls.size() - 1;
}

void Pipeline::Impl::wait_for(Pollable& object, bool is_watched) {
  wait_for(object.poll_fd(), object.poll_events(), {.object = &object, .is_watched = is_watched});
  wait_for(object.waiting_fence(), POLLIN, {.object = &object, .is_watched = is_watched, .is_fence = true});
  note_wake(object.wake_by());
}

// False if there is work already, such as a returned frame, and no need to sleep.
bool Pipeline::Impl::fill_wait_set() {
  bool sleep = true;
  for (Stream& stream : streams) {
    stream.set_poll_index(Stream::no_poll);
    if (stream.is_off()) continue;
    const bool is_asked = !stream.ended() && stream.has_room();
    sleep &= !stream.is_behind() && !(is_asked && stream.has_more());
    if (is_asked) {
      Source& source = stream.source();
      stream.set_poll_index(wait_for(source.poll_fd(), source.poll_events(), {}));
      wait_for(source.waiting_fence(), POLLIN, {.is_fence = true});  // every iteration serves the sources
      note_wake(source.wake_by());
    }
    if (HoldSet* holds = stream.source().holds()) {
      if (stream.must_be_woken()) {
        sleep &= holds->arm();
        wait_for(holds->wake_fd(), POLLIN, {.wake_of = holds});
      } else {
        sleep &= !holds->has_returned();
      }
    }
    for (const Branch& branch : stream.branches()) {
      if (branch.state() == Branch::State::failed) continue;
      for (Stage* stage : branch.stages()) wait_for(*stage);
      wait_for(branch.sink());
      note_wake(branch.wake_by());
    }
  }
  for (Pollable* object : watched) wait_for(*object, true);
  return sleep;
}

void Pipeline::Impl::disarm() noexcept {
  const pollfd* poll = polls.data();
  for (const Entry& entry : entries) {
    const bool woken = (poll++->revents & POLLIN) != 0;
    if (entry.wake_of != nullptr) entry.wake_of->disarm(woken);
  }
}

Result<bool> Pipeline::Impl::step(Deadline deadline, std::span<const int> stop_fds, bool* stopped) {
  clear_wait_set();
  for (const int fd : stop_fds) wait_for(fd, POLLIN, {});
  const auto first_entry = entries.size();
  const bool sleep = fill_wait_set();
  const int ready = sys::wait(polls, sleep ? Deadline::at(std::min(deadline.time(), wake)) : Deadline::immediate());
  disarm();
  if (ready < 0) return std::unexpected(Error::os(-ready, "poll"));
  for (const pollfd& stop : std::span(polls).first(first_entry)) *stopped |= stop.revents != 0;
  // The exact time only if something waits for a time.
  now = ready > 0 && wake == Clock::time_point::max() ? std::max(now, sys::coarse_now()) : Clock::now();
  if (ready == 0 && sleep && now < wake) return false;
  if (auto served = turn(first_entry); !served) return std::unexpected(served.error());
  return true;
}

[[gnu::flatten]] Result<bool> Pipeline::step(Deadline deadline, const Cancel* cancel) {
  if (!impl_->running) return std::unexpected(Error::os(EINVAL, "Pipeline::step").detail("not started"));
  const std::array<int, 1> stop_fds{cancel != nullptr ? cancel->poll_fd() : -1};
  bool stopped = false;
  auto done = impl_->step(deadline, stop_fds, &stopped);
  if (done && stopped) return std::unexpected(Error::os(ECANCELED, "Pipeline::step"));
  return done;
}

// Hands the wait set of step() to the epoll descriptor, for the program's own loop.
Result<void> Pipeline::Impl::arm() {
  clear_wait_set();
  const bool sleep = fill_wait_set();
  wanted.clear();
  for (std::size_t i = 0; i < polls.size(); ++i) {
    wanted.push_back({.fd = polls[i].fd, .events = polls[i].events, .may_be_other = entries[i].is_fence});
  }
  return epoll->set(wanted, wake, !sleep);
}

Result<void> Pipeline::Impl::dispatch() {
  if (auto looked = epoll->look(polls); !looked) return looked;
  disarm();
  now = Clock::now();
  auto served = turn(0);
  auto armed = running ? arm() : Result<void>{};
  return served ? armed : served;
}

// --- Serving

Result<void> Pipeline::Impl::turn(std::size_t first_entry) {
  serving = true;
  auto served = serve(first_entry);
  serving = false;
  return served && !watched.empty() ? serve_watched(first_entry) : served;
}

// Serves the objects that the program watches. They may change the streams, and with them the wait set, so the due
// objects are collected first.
Result<void> Pipeline::Impl::serve_watched(std::size_t first_entry) {
  due.clear();
  for (Pollable* object : watched) {
    const auto by = object->wake_by();
    bool is_due = by && by->time() <= now;
    short revents = 0;
    for (std::size_t i = first_entry; i < entries.size(); ++i) {
      if (entries[i].object != object || polls[i].revents == 0) continue;
      is_due = true;
      if (!entries[i].is_fence) revents = polls[i].revents;
    }
    if (is_due) due.push_back({.object = object, .revents = revents});
  }
  const std::size_t count = due.size();
  for (std::size_t i = 0; i < count; ++i) {  // by index: one of them may make the program watch more
    if (auto done = due[i].object->dispatch(due[i].revents); !done) return done;
  }
  return {};
}

// Sinks and stages first: the frames they release can be returned to the source in the same iteration.
[[gnu::flatten]] Result<void> Pipeline::Impl::serve(std::size_t first_entry) {
  const pollfd* poll = polls.data() + first_entry;
  for (const Entry& entry : std::span(entries).subspan(first_entry)) {
    const short revents = poll++->revents;
    if (revents == 0 || entry.object == nullptr || entry.is_watched) continue;  // watched: serve_watched()
    if (auto done = dispatch_to(*entry.object, entry.is_fence ? short{0} : revents); !done) return done;
  }
  if (now >= wake) {
    if (auto woken = wake_objects(); !woken) return woken;
  }
  for (std::size_t index = 0; index < streams.size(); ++index) {
    Stream& stream = streams[index];
    if (stream.is_off()) continue;
    const std::size_t place = stream.poll_index();
    auto done = serve_stream(index, place == Stream::no_poll ? short{0} : polls[place].revents);
    stream.count(stats.streams[index]);
    if (!done) return done;
  }
  return {};
}

Result<void> Pipeline::Impl::dispatch_to(Pollable& object, short revents) {
  auto done = object.dispatch(revents);
  if (done) return done;
  for (std::size_t index = 0; index < streams.size(); ++index) {
    const auto& branches = streams[index].branches();
    for (std::size_t b = 0; b < branches.size(); ++b) {
      if (branches[b].has(&object)) return survive(index, {.branch = b, .error = done.error()});
    }
  }
  return done;
}

// Calls the objects whose wake_by() has come.
Result<void> Pipeline::Impl::wake_objects() {
  const auto serve_late = [this](Pollable& object) {
    const auto by = object.wake_by();
    return by && by->time() <= now ? dispatch_to(object, 0) : Result<void>{};
  };
  for (Stream& stream : streams) {
    if (stream.is_off()) continue;
    for (const Branch& branch : stream.branches()) {
      for (Stage* stage : branch.stages()) {
        if (branch.state() == Branch::State::failed) break;
        if (auto done = serve_late(*stage); !done) return done;
      }
      if (branch.state() == Branch::State::failed) continue;
      if (auto done = serve_late(branch.sink()); !done) return done;
    }
  }
  return {};
}

bool Pipeline::Impl::is_enough(std::size_t index) const noexcept {
  return frame_limit != 0 && stats.streams[index].captured - before_run[index] >= frame_limit;
}

std::expected<void, detail::Failed> Pipeline::Impl::advance_waiting(std::size_t index) {
  return streams[index].advance(stats.streams[index]);
}

// Takes frames until the source has no more, and moves each one on before taking the next, so that an idle recorder
// gets them all. If frames are late, only the newest is moved on. If no frame came, the frames that wait in the
// branches are moved on. True if frames came and a newer one may be available at once.
std::expected<bool, detail::Failed> Pipeline::Impl::take_frames(std::size_t index) {
  Stream& stream = streams[index];
  StreamStats& counts = stats.streams[index];
  if (per_second.first != std::chrono::nanoseconds::zero()) {
    stats.elapsed = now.time_since_epoch() - per_second.first;
  }
  stream.set_more(false);
  if (!stream.has_room()) {  // move the waiting frames on first
    if (auto moved = advance_waiting(index); !moved) return std::unexpected(moved.error());
  }
  bool came = false;
  for (int taken = 0; !stream.ended(); ++taken) {
    if (taken == most_frames_per_turn || (taken > 0 && is_enough(index)) || !stream.has_room()) {
      stream.set_more(true);
      break;
    }
    const auto frame = stream.take(counts);
    if (!frame) return std::unexpected(frame.error());
    if (!*frame) break;
    if (per_second.first == std::chrono::nanoseconds::zero()) per_second.first = now.time_since_epoch();
    came = true;
    if (!stream.is_behind()) {
      if (auto moved = stream.advance(counts); !moved) return std::unexpected(moved.error());
    }
    if (!stream.source().may_have_frame()) break;
  }
  if (stream.is_behind() && came) return true;
  stream.caught_up();
  if (came) return false;
  if (auto moved = advance_waiting(index); !moved) return std::unexpected(moved.error());
  return false;
}

Result<void> Pipeline::Impl::serve_stream(std::size_t index, short revents) {
  Stream& stream = streams[index];
  const auto serve_source = [&](short what) {
    auto served = stream.serve_source(what);
    return served ? served : survive(index, {.branch = {}, .error = served.error()});
  };
  if (auto served = serve_source(revents); !served) return served;
  while (stream.is_running()) {
    const auto is_behind = take_frames(index);
    if (!is_behind) {
      if (stream.take_changed()) return renegotiate(index);  // e.g. a queue that ended because the signal changed
      if (auto goes_on = survive(index, is_behind.error()); !goes_on) return goes_on;
      continue;  // the other branches may not have moved the frame yet
    }
    // Returns the frames just released. If a newer frame may be available at once, the next iteration takes it.
    if (auto returned = serve_source(0); !returned || *is_behind) return returned;
    if (stream.is_running()) stream.collect(stats.streams[index], per_second);
    break;
  }
  return stream.is_off() || !stream.take_changed() ? Result<void>{} : renegotiate(index);
}

// --- Failures and changes

Result<void> Pipeline::Impl::survive(std::size_t index, const Failed& failure) {
  Stream& stream = streams[index];
  const Branch* branch = failure.branch ? &stream.branches()[*failure.branch] : nullptr;
  const bool goes_on =
      on_failure && on_failure({.source = &stream.source(),
                                .sink = branch == nullptr ? nullptr : &branch->sink(),
                                .name = branch == nullptr ? stream.source().name() : std::string_view(branch->name()),
                                .error = failure.error});
  if (!goes_on) return std::unexpected(failure.error);
  ++changes;
  if (epoll) epoll->distrust();
  const auto forget = [this](const Branch& stopped) {  // ignores what poll reported for its objects
    for (Entry& entry : entries) {
      if (stopped.has(entry.object)) entry.object = nullptr;
    }
  };
  if (branch != nullptr) {
    forget(*branch);
    stream.fail(*failure.branch, stats.streams[index], per_second);
    if (stream.has_branch_left()) return {};
  }
  stream.set_off(true);
  std::ranges::for_each(stream.branches(), forget);
  if (stream.is_running())
    static_cast<void>(stop_stream(index, Deadline::immediate(), nullptr));  // its failure was reported already
  return {};
}

// Negotiates the stream as requested, or, if the device no longer has that size or rate, as the device is now. Frames
// that are still held keep their old buffers. If the signal is lost again, nothing is started: the source reports when
// it is back.
Result<void> Pipeline::Impl::renegotiate(std::size_t index) {
  ++stats.streams[index].renegotiations;
  auto result = stop_stream(index, Deadline::after(drain_time), nullptr);
  if (result) {
    result = prepare_stream(index, wishes_for(index));
    if (!result) {
      StreamRequest as_it_is = wishes_for(index);
      as_it_is.size.reset();
      as_it_is.interval.reset();
      result = prepare_stream(index, as_it_is);
    }
    if (!result && is_no_signal(result.error())) return {};
    if (result) result = start_stream(index);
  }
  return result ? result : survive(index, {.branch = {}, .error = result.error()});
}

Result<void> Pipeline::Impl::start_stream(std::size_t index) {
  auto started = streams[index].start();
  if (started || !is_no_signal(started.error())) return started;
  static_cast<void>(stop_stream(index, Deadline::immediate(), nullptr));
  return {};
}

Result<void> Pipeline::Impl::bring_up(std::size_t index, const StreamRequest& wishes) {
  if (auto made = prepare_stream(index, wishes); !made) return made;
  auto started = start_stream(index);
  if (!started) static_cast<void>(stop_stream(index, Deadline::immediate(), nullptr));
  return started;
}

}  // namespace dmaflow
