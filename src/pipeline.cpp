#include <dmaflow/pipeline.hpp>

#include "epoll_set.hpp"
#include "progress_watch.hpp"
#include "stream.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>

namespace dmaflow {
namespace {

using Clock = Deadline::Clock;

constexpr std::size_t seconds_kept = 3600;
constexpr auto drain_time = std::chrono::seconds(5);  // a GPU that is a busy CPU takes seconds over its last frames
constexpr auto progress_interval = std::chrono::seconds(1);
/// A source that never runs empty must not keep the others waiting.
constexpr int most_frames_per_turn = 32;

/// A signal that is gone: the source says when it is back.
bool is_no_signal(const Error& error) noexcept { return error.code() == ENOLINK || error.code() == ENOLCK; }

}  // namespace

struct Pipeline::Impl {
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (running) static_cast<void>(stop(Deadline::after(drain_time), nullptr));
  }

  std::vector<Stream> streams;
  std::vector<Allocator*> allocators;
  StreamRequest request;
  std::vector<Plan> plans;
  std::vector<std::size_t> plans_per_stream;
  Stats stats;
  PerSecond per_second;
  std::vector<std::uint64_t> before_run;  // captured by each stream before it was started
  std::uint64_t frame_limit = 0;          // RunOptions::frames
  std::optional<Refused> refusal;
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
  Clock::time_point wake{};       // the earliest at which an object wants to be called though nothing came
  Clock::time_point now{};        // when this turn's wait returned
  std::optional<EpollSet> epoll;  // where the program has a loop of its own
  std::vector<EpollSet::Wanted> wanted;

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
  void clear_wait_set() noexcept {
    polls.clear();
    entries.clear();
    wake = Clock::time_point::max();
  }
  bool fill_wait_set();
  Result<void> wake_objects();
  Result<bool> step(Deadline deadline, std::span<const int> stop_fds, bool* stopped);
  Result<void> serve(std::size_t first_entry);
  Result<void> serve_stream(std::size_t index, short revents);
  Result<bool> take_frames(std::size_t index);
  void note_frame(bool came);
  [[nodiscard]] bool is_enough(std::size_t index) const noexcept;
  Result<void> renegotiate(std::size_t index);
  Result<void> start_stream(std::size_t index);
  Result<void> stop_stream(std::size_t index, Deadline deadline, const Cancel* cancel) {
    if (epoll) epoll->distrust();
    return streams[index].stop(deadline, cancel, stats.streams[index], per_second);
  }
  [[nodiscard]] std::vector<Stream>::iterator stream_of(const Source& source) noexcept {
    return std::ranges::find_if(streams, [&](const Stream& stream) { return &stream.source() == &source; });
  }
  [[nodiscard]] const StreamRequest& wishes_for(std::size_t index) const noexcept {
    return streams[index].request() ? *streams[index].request() : request;
  }
  Result<void> prepare_stream(std::size_t index, const StreamRequest& wishes);
  Result<void> stop(Deadline deadline, const Cancel* cancel);
  Result<void> loop(const RunOptions& options, ProgressWatch& watch);
  [[nodiscard]] std::uint64_t captured() const noexcept;  // in this run
  [[nodiscard]] bool all_ended() const noexcept { return std::ranges::all_of(streams, &Stream::is_done); }
  Result<void> arm();
  void disarm() noexcept;
  Result<void> dispatch();
};

Pipeline::Pipeline() : impl_(std::make_unique<Impl>()) {}
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;

Pipeline::~Pipeline() = default;

const std::vector<Plan>& Pipeline::plans() const noexcept { return impl_->plans; }
const std::optional<Refused>& Pipeline::refusal() const noexcept { return impl_->refusal; }
const Stats& Pipeline::stats() const noexcept { return impl_->stats; }
void Pipeline::offer(Allocator& allocator) { impl_->allocators.push_back(&allocator); }

void Pipeline::watch(Pollable& object) { impl_->watched.push_back(&object); }
bool Pipeline::ended() const noexcept { return impl_->running && impl_->all_ended(); }

Result<void> Pipeline::request(const Source& source, StreamRequest wanted) {
  const auto found = impl_->stream_of(source);
  if (found == impl_->streams.end())
    return std::unexpected(
        Error::os(EINVAL, "Pipeline::request", source.name()).detail("it has no branch: connect() first"));
  found->set_request(std::move(wanted));
  return {};
}

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
  for (std::size_t i = 0; i < options.stages.size(); ++i) {
    if (options.stages[i] == nullptr) return invalid("a stage is null");
    if (std::ranges::find(options.stages.begin(), options.stages.begin() + static_cast<std::ptrdiff_t>(i),
                          options.stages[i]) != options.stages.begin() + static_cast<std::ptrdiff_t>(i)) {
      return invalid("a stage stands twice in the branch");
    }
  }
  for (Stream& stream : impl_->streams) {
    for (const Branch& branch : stream.branches()) {
      if (&branch.sink() == &sink) return invalid("the sink has a branch already");
      if (&stream.source() == &source && branch.name() == name) return invalid("the source has a branch of that name");
      if (std::ranges::find_first_of(branch.stages(), options.stages) != branch.stages().end()) {
        return invalid("one of the stages is in another branch");
      }
    }
  }
  auto found = impl_->stream_of(source);
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

Result<void> Pipeline::Impl::prepare_stream(std::size_t index, const StreamRequest& wishes) {
  auto made = streams[index].prepare(wishes, allocators);
  if (!made) {
    refusal = std::move(made.error());
    return std::unexpected(refusal->error);
  }
  refusal.reset();
  std::size_t before = 0;
  for (std::size_t i = 0; i < index; ++i) before += plans_per_stream[i];
  const auto at = plans.begin() + static_cast<std::ptrdiff_t>(before);
  plans.erase(at, at + static_cast<std::ptrdiff_t>(plans_per_stream[index]));
  plans.insert(plans.begin() + static_cast<std::ptrdiff_t>(before), made->begin(), made->end());
  plans_per_stream[index] = made->size();
  return {};
}

Result<std::vector<Plan>> Pipeline::prepare(const StreamRequest& request) {
  Impl& impl = *impl_;
  if (impl.streams.empty() || impl.running) {
    impl.refusal = Refused{.error = Error::os(impl.running ? EBUSY : EINVAL, "Pipeline::prepare")
                                        .detail(impl.running ? "it is running" : "no source was connected")};
    return std::unexpected(impl.refusal->error);
  }
  impl.request = request;
  impl.plans.clear();
  impl.plans_per_stream.assign(impl.streams.size(), 0);
  for (std::size_t i = 0; i < impl.streams.size(); ++i) {
    if (auto made = impl.prepare_stream(i, impl.wishes_for(i)); !made) {
      for (Stream& stream : impl.streams) stream.forget();
      impl.plans.clear();
      impl.prepared = false;
      return std::unexpected(impl.refusal->error);
    }
  }
  impl.prepared = true;
  return impl.plans;
}

Result<void> Pipeline::start() {
  Impl& impl = *impl_;
  if (impl.running) return {};
  if (!impl.prepared) {
    if (auto made = prepare(impl.request); !made) return std::unexpected(made.error());
  }
  impl.frame_limit = 0;
  std::size_t most = 2 + 2 * impl.watched.size();  // the stop descriptors, and per object its own and a fence
  for (Stream& stream : impl.streams) {
    most += 3;
    for (const Branch& branch : stream.branches()) most += 2 * (1 + branch.stages().size());
  }
  impl.polls.reserve(most);
  impl.entries.reserve(most);
  impl.stats.per_second.reserve(seconds_kept);
  impl.per_second.counts = &impl.stats.per_second;
  impl.per_second.recent = &impl.stats.recent;
  impl.running = true;
  impl.before_run.clear();
  for (const StreamStats& stream : impl.stats.streams) impl.before_run.push_back(stream.captured);
  for (std::size_t i = 0; i < impl.streams.size(); ++i) {
    if (auto started = impl.start_stream(i); !started) {
      impl.stop(Deadline::passed(), nullptr);
      return started;
    }
  }
  return impl.epoll ? impl.arm() : Result<void>{};
}

Result<void> Pipeline::Impl::start_stream(std::size_t index) {
  auto started = streams[index].start();
  if (started || !is_no_signal(started.error())) return started;
  static_cast<void>(stop_stream(index, Deadline::passed(), nullptr));
  return {};
}

Result<void> Pipeline::Impl::stop(Deadline deadline, const Cancel* cancel) {
  Result<void> result;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const auto stopped = stop_stream(i, deadline, cancel);
    if (result && !stopped) result = stopped;
  }
  running = false;
  prepared = false;  // the buffers are gone with the devices' queues; a new start makes new ones
  if (epoll) {
    const auto silent = epoll->set({}, Clock::time_point::max(), false);
    if (result && !silent) result = silent;
  }
  return result;
}

Result<void> Pipeline::stop(Deadline deadline, const Cancel* cancel) {
  return impl_->running ? impl_->stop(deadline, cancel) : Result<void>{};
}

// False where a frame has come back already and there is no need to sleep.
bool Pipeline::Impl::fill_wait_set() {
  bool sleep = true;
  for (Stream& stream : streams) {
    const bool is_asked = !stream.ended() && stream.has_room();
    sleep &= !stream.is_behind() && !(is_asked && stream.has_more());
    if (is_asked) {
      wait_for(stream.source().poll_fd(), stream.source().poll_events(), {.source_of = &stream});
      wait_for(stream.source().waiting_fence(), POLLIN, {.is_fence = true});  // every turn serves the sources
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
  clear_wait_set();
  for (const int fd : stop_fds) wait_for(fd, POLLIN, {});
  const auto first_entry = entries.size();
  const bool sleep = fill_wait_set();
  const int ready = sys::wait(polls, sleep ? Deadline::at(std::min(deadline.time(), wake)) : Deadline::passed());
  disarm();
  if (ready < 0) return std::unexpected(Error::os(-ready, "poll"));
  for (std::size_t i = 0; i < first_entry; ++i) {
    if (polls[i].revents != 0) *stopped = true;
  }
  now = Clock::now();
  if (ready == 0 && sleep && now < wake) return false;
  if (auto served = serve(first_entry); !served) return std::unexpected(served.error());
  return true;
}

void Pipeline::Impl::disarm() noexcept {
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].wake_of != nullptr) entries[i].wake_of->disarm((polls[i].revents & POLLIN) != 0);
  }
}

// The wait set of step(), to be waited for by somebody else.
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
  auto served = serve(0);
  auto armed = arm();
  return served ? armed : served;
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
    auto done = serve_stream(index, revents);
    streams[index].count(stats.streams[index]);
    if (!done) return done;
  }
  return {};
}

bool Pipeline::Impl::is_enough(std::size_t index) const noexcept {
  return frame_limit != 0 && stats.streams[index].captured - before_run[index] >= frame_limit;
}

void Pipeline::Impl::note_frame(bool came) {
  const auto at = now.time_since_epoch();
  if (came && per_second.first == std::chrono::nanoseconds::zero()) per_second.first = at;
  if (per_second.first != std::chrono::nanoseconds::zero()) stats.elapsed = at - per_second.first;
}

// Takes until the source has no more, and moves each frame on before the next is taken: an idle recorder gets them all.
// Where frames are late, only the newest is moved on. Without a frame, what waits in the branches is moved on. True
// where frames came and a newer one may be there at once.
Result<bool> Pipeline::Impl::take_frames(std::size_t index) {
  Stream& stream = streams[index];
  StreamStats& counts = stats.streams[index];
  stream.set_more(false);
  if (!stream.has_room()) {  // what waits goes on first
    if (auto moved = stream.advance(counts); !moved) return std::unexpected(moved.error());
  }
  bool came = false;
  for (int taken = 0; !stream.ended(); ++taken) {
    if (taken == most_frames_per_turn || (taken > 0 && is_enough(index)) || !stream.has_room()) {
      stream.set_more(true);
      break;
    }
    const auto frame = stream.take(counts);
    if (!frame) return std::unexpected(frame.error());
    note_frame(*frame);
    if (!*frame) break;
    came = true;
    if (stream.is_behind()) continue;
    if (auto moved = stream.advance(counts); !moved) return std::unexpected(moved.error());
  }
  if (stream.is_behind() && came) return true;
  stream.caught_up();
  if (came) return false;
  if (auto moved = stream.advance(counts); !moved) return std::unexpected(moved.error());
  return false;
}

Result<void> Pipeline::Impl::serve_stream(std::size_t index, short revents) {
  Stream& stream = streams[index];
  StreamStats& counts = stats.streams[index];
  if (auto served = stream.serve_source(revents); !served) return served;
  if (stream.is_running()) {
    const auto is_behind = take_frames(index);
    if (!is_behind) {  // a queue that ended because the signal changed is no error
      return stream.take_changed() ? renegotiate(index) : Result<void>(std::unexpected(is_behind.error()));
    }
    if (*is_behind) return stream.serve_source(0);  // the next turn looks for a newer one at once
    if (auto returned = stream.serve_source(0); !returned) return returned;  // what was just let go
    stream.collect(counts, per_second);
  }
  return stream.take_changed() ? renegotiate(index) : Result<void>{};
}

// The stream as it was wanted, or, where the device no longer has that size or rate, as it is now. Frames that somebody
// still holds keep their old buffers. Where the signal went away again nothing is started: the source says when it is
// back.
Result<void> Pipeline::Impl::renegotiate(std::size_t index) {
  ++stats.streams[index].renegotiations;
  if (auto stopped = stop_stream(index, Deadline::after(drain_time), nullptr); !stopped) return stopped;
  auto made = prepare_stream(index, wishes_for(index));
  if (!made) {
    StreamRequest as_it_is = wishes_for(index);
    as_it_is.size.reset();
    as_it_is.interval.reset();
    made = prepare_stream(index, as_it_is);
  }
  if (!made) return is_no_signal(made.error()) ? Result<void>{} : made;
  return start_stream(index);
}

// The fewest frames over the streams still running.
std::uint64_t Pipeline::Impl::captured() const noexcept {
  std::uint64_t least = ~std::uint64_t{0};
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (!streams[i].ended()) least = std::min(least, stats.streams[i].captured - before_run[i]);
  }
  return least;
}

Result<void> Pipeline::Impl::loop(const RunOptions& options, ProgressWatch& watch) {
  const std::array<int, 2> stop_fds{options.stop_fd, options.cancel != nullptr ? options.cancel->poll_fd() : -1};
  now = Clock::now();
  frame_limit = options.frames;
  const auto end = options.duration ? Deadline::after(*options.duration).time() : Clock::time_point::max();
  auto next_progress = now + progress_interval;
  watch.begin(now);
  bool stopped = false;
  while (!stopped && !all_ended() && now < end && (options.frames == 0 || captured() < options.frames)) {
    auto done = step(Deadline::at(std::min({end, next_progress, watch.next()})), stop_fds, &stopped);
    if (!done) return std::unexpected(done.error());
    if (auto goes_on = watch.check(stats.streams, now); !goes_on && !stopped) return goes_on;
    if (now < next_progress) continue;
    while (next_progress <= now) next_progress += progress_interval;  // once, however long the loop was away
    if (options.progress) options.progress(stats);
  }
  return {};
}

Result<void> Pipeline::run(const RunOptions& options) {
  ProgressWatch watch(impl_->streams, options.frame_timeout);  // before frames move, for it allocates
  if (auto started = start(); !started) return started;
  auto result = impl_->loop(options, watch);
  auto stopped = impl_->stop(Deadline::after(drain_time), nullptr);
  return result ? stopped : result;
}

Result<int> Pipeline::poll_fd() {
  if (!impl_->epoll) {
    auto made = EpollSet::create();
    if (!made) return std::unexpected(made.error());
    impl_->epoll.emplace(std::move(*made));
    const auto armed = impl_->running ? impl_->arm() : Result<void>{};
    if (!armed) {
      impl_->epoll.reset();
      return std::unexpected(armed.error());
    }
  }
  return impl_->epoll->fd();
}

Result<void> Pipeline::dispatch() {
  if (impl_->running && impl_->epoll) return impl_->dispatch();
  return std::unexpected(
      Error::os(EINVAL, "Pipeline::dispatch").detail(impl_->running ? "poll_fd() was not asked for" : "not started"));
}

Result<bool> Pipeline::step(Deadline deadline, const Cancel* cancel) {
  if (!impl_->running) return std::unexpected(Error::os(EINVAL, "Pipeline::step").detail("not started"));
  const std::array<int, 1> stop_fds{cancel != nullptr ? cancel->poll_fd() : -1};
  bool stopped = false;
  auto done = impl_->step(deadline, stop_fds, &stopped);
  if (done && stopped) return std::unexpected(Error::os(ECANCELED, "Pipeline::step"));
  return done;
}

}  // namespace dmaflow
