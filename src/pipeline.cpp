#include <dmaflow/pipeline.hpp>

#include "stream.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>

#include <sys/eventfd.h>

namespace dmaflow {
namespace {

using Clock = Deadline::Clock;

constexpr std::size_t seconds_kept = 3600;
constexpr auto drain_time = std::chrono::seconds(2);
constexpr auto progress_interval = std::chrono::seconds(1);

/// Makes a stop token something to wait for.
class StopEvent {
 public:
  Result<void> open() noexcept {
    const int fd = sys::eventfd(EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return std::unexpected(Error::os(-fd, "eventfd"));
    fd_ = Fd::adopt(fd);
    return {};
  }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  void signal() const noexcept {
    const std::uint64_t one = 1;
    sys::write(fd_.get(), &one, sizeof one);
  }

 private:
  Fd fd_;
};

}  // namespace

struct Pipeline::Impl {
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (running) static_cast<void>(stop(Deadline::after(drain_time)));
  }

  std::vector<Stream> streams;
  std::vector<Allocator*> allocators;
  StreamRequest request;
  std::vector<Plan> plans;
  std::vector<std::size_t> plans_per_stream;
  Stats stats;
  PerSecond per_second;
  std::vector<std::uint64_t> before_run;  // captured by each stream before it was started
  bool prepared = false;
  bool running = false;

  // The wait set, its memory made once. Each entry beside what it belongs to.
  struct Entry {
    Stream* source_of = nullptr;  // its source's own descriptor
    HoldSet* wake_of = nullptr;   // its returned frames
    Pollable* object = nullptr;   // a stage, a sink, or what the user has watched
    bool is_fence = false;        // not the object's own descriptor, but a fence it waits for
  };
  std::vector<pollfd> polls;
  std::vector<Entry> entries;
  std::vector<Pollable*> watched;
  Clock::time_point wake{};  // the earliest at which an object wants to be called though nothing came
  Clock::time_point now{};   // of this turn, behind its wait

  void wait_for(int fd, short events, Entry entry) {
    if (fd < 0 || events == 0) return;
    polls.push_back({.fd = fd, .events = events, .revents = 0});
    entries.push_back(entry);
  }
  void wait_for(Pollable& object) {
    wait_for(object.poll_fd(), object.poll_events(), {.object = &object});
    wait_for(object.waiting_fence(), POLLIN, {.object = &object, .is_fence = true});
    note_wake(object);
  }
  void note_wake(const Pollable& object) {
    if (const auto by = object.wake_by()) wake = std::min(wake, by->time());
  }
  bool fill_wait_set();
  Result<void> wake_objects();
  Result<bool> step(Deadline deadline, std::span<const int> stop_fds, bool* stopped);
  Result<void> serve(std::size_t first_entry);
  Result<void> serve_stream(std::size_t index, short revents);
  Result<void> renegotiate(std::size_t index);
  std::expected<void, Refused> prepare_stream(std::size_t index, const StreamRequest& wanted);
  Result<void> stop(Deadline deadline);
  Result<void> loop(const RunOptions& options, const StopEvent& stop_event);
  [[nodiscard]] std::uint64_t captured() const noexcept;  // in this run
  [[nodiscard]] std::uint64_t captured_by_all() const noexcept;
  [[nodiscard]] bool all_ended() const noexcept { return std::ranges::all_of(streams, &Stream::ended); }
};

Pipeline::Pipeline() : impl_(std::make_unique<Impl>()) {}
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;

Pipeline::~Pipeline() = default;

const std::vector<Plan>& Pipeline::plans() const noexcept { return impl_->plans; }
const Stats& Pipeline::stats() const noexcept { return impl_->stats; }
void Pipeline::offer(Allocator& allocator) { impl_->allocators.push_back(&allocator); }

void Pipeline::watch(Pollable& object) { impl_->watched.push_back(&object); }

Result<void> Pipeline::connect(Source& source, Sink& sink, std::string name, BranchOptions options) {
  const auto invalid = [&](const char* why) {
    return std::unexpected(Error::os(EINVAL, "Pipeline::connect", sink.name()).detail("%s", why));
  };
  if (impl_->prepared) {
    return std::unexpected(
        Error::os(EBUSY, "Pipeline::connect", sink.name()).detail("the pipeline is prepared already"));
  }
  if (name.empty()) return invalid("a branch needs a name");
  if (options.max_queued < 1 || options.max_queued > Branch::max_queue) return invalid("max_queued must be 1 to 32");
  for (Stream& stream : impl_->streams) {
    for (const Branch& branch : stream.branches()) {
      if (&branch.sink() == &sink) return invalid("the sink has a branch already");
    }
  }
  auto found = std::ranges::find_if(impl_->streams, [&](const Stream& stream) { return &stream.source() == &source; });
  if (found == impl_->streams.end()) {
    impl_->streams.emplace_back(source);
    found = std::prev(impl_->streams.end());
    impl_->stats.streams.push_back({.name = std::string(source.name()), .branches = {}});
  }
  const auto index = static_cast<std::size_t>(found - impl_->streams.begin());
  if (found->branches().size() + 1 > HoldSet::max_holders) return invalid("too many branches of one source");
  impl_->stats.streams[index].branches.push_back({.name = name, .latency = {}});
  found->branches().emplace_back(std::move(name), sink, std::move(options));
  return {};
}

std::expected<void, Refused> Pipeline::Impl::prepare_stream(std::size_t index, const StreamRequest& wanted) {
  auto made = streams[index].prepare(wanted, allocators);
  if (!made) return std::unexpected(std::move(made.error()));
  std::size_t before = 0;
  for (std::size_t i = 0; i < index; ++i) before += plans_per_stream[i];
  const auto at = plans.begin() + static_cast<std::ptrdiff_t>(before);
  plans.erase(at, at + static_cast<std::ptrdiff_t>(plans_per_stream[index]));
  plans.insert(plans.begin() + static_cast<std::ptrdiff_t>(before), made->begin(), made->end());
  plans_per_stream[index] = made->size();
  return {};
}

std::expected<std::vector<Plan>, Refused> Pipeline::prepare(const StreamRequest& request) {
  Impl& impl = *impl_;
  if (impl.streams.empty() || impl.running) {
    return std::unexpected(Refused{Error::os(impl.running ? EBUSY : EINVAL, "Pipeline::prepare")
                                       .detail(impl.running ? "it is running" : "no source was connected"),
                                   {}});
  }
  impl.request = request;
  impl.plans.clear();
  impl.plans_per_stream.assign(impl.streams.size(), 0);
  for (std::size_t i = 0; i < impl.streams.size(); ++i) {
    if (auto made = impl.prepare_stream(i, request); !made) {
      for (Stream& stream : impl.streams) stream.forget();
      impl.plans.clear();
      impl.prepared = false;
      return std::unexpected(std::move(made.error()));
    }
  }
  impl.prepared = true;
  return impl.plans;
}

Result<void> Pipeline::start() {
  Impl& impl = *impl_;
  if (impl.running) return {};
  if (!impl.prepared) {
    if (auto made = prepare(impl.request); !made) return std::unexpected(made.error().error);
  }
  std::size_t most = 2 + 2 * impl.watched.size();  // the stop descriptors, and per object its own and a fence
  for (Stream& stream : impl.streams) {
    most += 3;
    for (const Branch& branch : stream.branches()) most += 2 * (1 + branch.stages().size());
  }
  impl.polls.reserve(most);
  impl.entries.reserve(most);
  impl.stats.per_second.reserve(seconds_kept);
  impl.per_second.counts = &impl.stats.per_second;
  impl.running = true;
  impl.before_run.clear();
  for (const StreamStats& stream : impl.stats.streams) impl.before_run.push_back(stream.captured);
  for (Stream& stream : impl.streams) {
    if (auto started = stream.start(); !started) {
      impl.stop(Deadline::passed());
      return started;
    }
  }
  return {};
}

Result<void> Pipeline::Impl::stop(Deadline deadline) {
  Result<void> result;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const auto stopped = streams[i].stop(deadline, stats.streams[i], per_second);
    if (result && !stopped) result = stopped;
  }
  running = false;
  prepared = false;  // the buffers are gone with the devices' queues; a new start makes new ones
  return result;
}

Result<void> Pipeline::stop(Deadline deadline) { return impl_->running ? impl_->stop(deadline) : Result<void>{}; }

// False where a frame has come back already and there is no need to sleep.
bool Pipeline::Impl::fill_wait_set() {
  bool sleep = true;
  for (Stream& stream : streams) {
    sleep &= !stream.is_behind();
    if (!stream.ended()) {
      wait_for(stream.source().poll_fd(), stream.source().poll_events(), {.source_of = &stream});
      wait_for(stream.source().waiting_fence(), POLLIN, {});  // every turn serves the sources
      note_wake(stream.source());
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
      for (Stage* stage : branch.stages()) wait_for(*stage);
      wait_for(branch.sink());
    }
  }
  for (Pollable* object : watched) wait_for(*object);
  return sleep;
}

// Those that wanted to be called by now.
Result<void> Pipeline::Impl::wake_objects() {
  if (now < wake) return {};
  const auto serve = [this](Pollable& object) {
    const auto by = object.wake_by();
    return by && by->time() <= now ? object.dispatch(0) : Result<void>{};
  };
  for (Stream& stream : streams) {
    for (const Branch& branch : stream.branches()) {
      for (Stage* stage : branch.stages()) {
        if (auto done = serve(*stage); !done) return done;
      }
      if (auto done = serve(branch.sink()); !done) return done;
    }
  }
  for (Pollable* object : watched) {
    if (auto done = serve(*object); !done) return done;
  }
  return {};
}

Result<bool> Pipeline::Impl::step(Deadline deadline, std::span<const int> stop_fds, bool* stopped) {
  polls.clear();
  entries.clear();
  for (const int fd : stop_fds) wait_for(fd, POLLIN, {});
  const auto first_entry = entries.size();
  wake = Clock::time_point::max();
  const bool sleep = fill_wait_set();
  const int ready = sys::wait(polls, sleep ? Deadline::at(std::min(deadline.time(), wake)) : Deadline::passed());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].wake_of != nullptr) entries[i].wake_of->disarm((polls[i].revents & POLLIN) != 0);
  }
  if (ready < 0) return std::unexpected(Error::os(-ready, "poll"));
  for (std::size_t i = 0; i < first_entry; ++i) {
    if (polls[i].revents != 0) *stopped = true;
  }
  now = Clock::now();
  if (ready == 0 && sleep && now < wake) return false;
  if (auto served = serve(first_entry); !served) return std::unexpected(served.error());
  return true;
}

// Sinks and stages first: what they let go of can be given back to the source in this same turn.
Result<void> Pipeline::Impl::serve(std::size_t first_entry) {
  for (std::size_t i = first_entry; i < entries.size(); ++i) {
    if (entries[i].object == nullptr || polls[i].revents == 0) continue;
    const short revents = entries[i].is_fence ? short{0} : polls[i].revents;
    if (auto done = entries[i].object->dispatch(revents); !done) return done;
  }
  if (auto woken = wake_objects(); !woken) return woken;
  for (std::size_t index = 0; index < streams.size(); ++index) {
    short revents = 0;
    for (std::size_t i = first_entry; i < entries.size(); ++i) {
      if (entries[i].source_of == &streams[index]) revents = polls[i].revents;
    }
    if (auto done = serve_stream(index, revents); !done) return done;
  }
  return {};
}

Result<void> Pipeline::Impl::serve_stream(std::size_t index, short revents) {
  Stream& stream = streams[index];
  StreamStats& counts = stats.streams[index];
  if (auto served = stream.serve_source(revents); !served) return served;
  while ((revents & (POLLIN | POLLPRI | POLLERR | POLLHUP)) != 0) {
    auto taken = stream.take(counts);
    if (!taken) {  // a queue that ended because the signal changed is no error
      return stream.take_changed() ? renegotiate(index) : Result<void>(std::unexpected(taken.error()));
    }
    const auto came = now.time_since_epoch();
    if (*taken && per_second.first == std::chrono::nanoseconds::zero()) per_second.first = came;
    if (per_second.first != std::chrono::nanoseconds::zero()) stats.elapsed = came - per_second.first;
    if (*taken && stream.is_behind()) return stream.serve_source(0);  // the next turn looks for a newer one at once
    // One frame a turn, the next wakes us at once. After an event, all there are: the end of the stream wakes us no
    // more.
    if (!*taken || stream.ended() || (revents & POLLPRI) == 0) break;
  }
  stream.caught_up();
  if (auto moved = stream.advance(counts); !moved) return moved;
  if (auto returned = stream.serve_source(0); !returned) return returned;  // what was just let go
  stream.collect(counts, per_second);
  return stream.take_changed() ? renegotiate(index) : Result<void>{};
}

// The stream as it was wanted, or, where the device no longer has that size or rate, as it is now. Frames that somebody
// still holds keep their old buffers.
Result<void> Pipeline::Impl::renegotiate(std::size_t index) {
  Stream& stream = streams[index];
  ++stats.streams[index].renegotiations;
  if (auto stopped = stream.stop(Deadline::after(drain_time), stats.streams[index], per_second); !stopped)
    return stopped;
  auto made = prepare_stream(index, request);
  if (!made) {
    StreamRequest as_it_is = request;
    as_it_is.size.reset();
    as_it_is.interval.reset();
    made = prepare_stream(index, as_it_is);
  }
  // A signal that went away again: the source says when it is back, and until then nothing is started.
  const auto no_signal = [](const Error& error) { return error.code() == ENOLINK || error.code() == ENOLCK; };
  if (!made) return no_signal(made.error().error) ? Result<void>{} : std::unexpected(made.error().error);
  return stream.start();
}

// Of the stream with the fewest; a stream that ended is waited for no more.
std::uint64_t Pipeline::Impl::captured() const noexcept {
  std::uint64_t least = ~std::uint64_t{0};
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (!streams[i].ended()) least = std::min(least, stats.streams[i].captured - before_run[i]);
  }
  return least;
}

std::uint64_t Pipeline::Impl::captured_by_all() const noexcept {
  std::uint64_t sum = 0;
  for (const StreamStats& stream : stats.streams) sum += stream.captured;
  return sum;
}

Result<void> Pipeline::Impl::loop(const RunOptions& options, const StopEvent& stop_event) {
  const std::array<int, 2> stop_fds{options.stop_fd, stop_event.fd()};
  now = Clock::now();
  const auto end = options.duration ? Deadline::after(*options.duration).time() : Clock::time_point::max();
  auto next_progress = now + progress_interval;
  auto patience = Deadline::after(options.frame_timeout).time();
  auto last_count = captured_by_all();
  bool stopped = false;
  while (!stopped && !all_ended() && now < end && (options.frames == 0 || captured() < options.frames)) {
    auto done = step(Deadline::at(std::min({end, next_progress, patience})), stop_fds, &stopped);
    if (!done) return std::unexpected(done.error());
    if (captured_by_all() != last_count) {
      last_count = captured_by_all();
      patience = Deadline::after(options.frame_timeout).time();
    } else if (now >= patience && !stopped) {
      return std::unexpected(Error::os(ETIMEDOUT, "Pipeline::run", streams.front().source().name())
                                 .detail("no frame came for %.1f s; %llu were captured before",
                                         std::chrono::duration<double>(options.frame_timeout).count(),
                                         static_cast<unsigned long long>(last_count)));
    }
    if (now >= next_progress) {
      next_progress += progress_interval;
      if (options.progress) options.progress(stats);
    }
  }
  return {};
}

Result<void> Pipeline::run(const RunOptions& options) {
  StopEvent stop_event;
  if (auto opened = stop_event.open(); !opened) return opened;
  const std::stop_callback on_stop(options.stop, [&stop_event] { stop_event.signal(); });
  if (auto started = start(); !started) return started;
  auto result = impl_->loop(options, stop_event);
  auto stopped = impl_->stop(Deadline::after(drain_time));
  return result ? stopped : result;
}

Result<bool> Pipeline::step(Deadline deadline) {
  if (!impl_->running) return std::unexpected(Error::os(EINVAL, "Pipeline::step").detail("not started"));
  bool stopped = false;
  return impl_->step(deadline, {}, &stopped);
}

}  // namespace dmaflow
