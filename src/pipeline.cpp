#include "pipeline_impl.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace dmaflow {
using detail::Branch;
using detail::EpollSet;
using detail::Stream;
namespace {

constexpr std::size_t seconds_kept = 3600;
constexpr auto progress_interval = std::chrono::seconds(1);

}  // namespace

Pipeline::Pipeline() : impl_(std::make_unique<Impl>()) {}
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;
Pipeline::~Pipeline() = default;

const std::vector<Plan>& Pipeline::plans() const noexcept { return impl_->plans; }
const std::optional<Refused>& Pipeline::refusal() const noexcept { return impl_->refusal; }
const Stats& Pipeline::stats() const noexcept { return impl_->stats; }
bool Pipeline::ended() const noexcept { return impl_->running && impl_->all_ended(); }
void Pipeline::offer(Allocator& allocator) { impl_->allocators.push_back(&allocator); }
void Pipeline::on_failure(Function<bool(const Failure&)> function) { impl_->on_failure = std::move(function); }

// --- Building

Result<void> Pipeline::request(const Source& source, StreamRequest wanted) {
  const auto found = impl_->stream_of(source);
  if (found == impl_->streams.end())
    return std::unexpected(
        Error::os(EINVAL, "Pipeline::request", source.name()).detail("it has no branch: connect() first"));
  found->set_request(std::move(wanted));
  return {};
}

Result<void> Pipeline::Impl::check_branch(const Source& source, const Sink& sink, const std::string& name,
                                          const BranchOptions& options) const {
  const auto invalid = [&](const char* why) {
    return std::unexpected(Error::os(EINVAL, "Pipeline::connect", sink.name()).detail("%s", why));
  };
  if (name.empty()) return invalid("a branch needs a name");
  if (options.max_queued < 1 || options.max_queued > Branch::max_queue) return invalid("max_queued must be 1 to 32");
  for (auto stage = options.stages.begin(); stage != options.stages.end(); ++stage) {
    if (*stage == nullptr) return invalid("a stage is null");
    if (std::find(options.stages.begin(), stage, *stage) != stage) return invalid("a stage stands twice in the branch");
  }
  if (options.request) {
    const bool is_producing = std::ranges::any_of(options.stages, [](Stage* one) { return !one->passes_through(); });
    if (options.request->spare_buffers != 0) {
      return invalid("spare buffers are the source's: ask for them in prepare()");
    }
    if (!is_producing && (options.request->size || !options.request->formats.empty())) {
      return invalid(
          "without a stage that makes images of its own, a branch gets the source's: ask for their size and "
          "format in prepare(), or give it a stage such as vulkan::Convert");
    }
  }
  for (const Stream& stream : streams) {
    if (&stream.source() == &source && stream.branches().size() + 1 > HoldSet::max_holders)
      return invalid("too many branches of one source");
    for (const Branch& branch : stream.branches()) {
      if (&branch.sink() == &sink) return invalid("the sink has a branch already");
      if (&stream.source() == &source && branch.name() == name) return invalid("the source has a branch of that name");
      if (std::ranges::find_first_of(branch.stages(), options.stages) != branch.stages().end()) {
        return invalid("one of the stages is in another branch");
      }
    }
  }
  return {};
}

Result<void> Pipeline::connect(Source& source, Sink& sink, std::string name, BranchOptions options) {
  Impl& impl = *impl_;
  if (impl.prepared && !impl.running) {
    return std::unexpected(Error::os(EBUSY, "Pipeline::connect", sink.name())
                               .detail("the pipeline is prepared but not started: connect before, or after start()"));
  }
  if (auto quiet = impl.check_quiet("Pipeline::connect"); !quiet) return quiet;
  if (auto checked = impl.check_branch(source, sink, name, options); !checked) return checked;
  auto found = impl.stream_of(source);
  if (found == impl.streams.end()) {
    impl.streams.emplace_back(source);
    found = std::prev(impl.streams.end());
    impl.stats.streams.push_back({.name = std::string(source.name())});
    impl.before_run.push_back(0);
  }
  const auto index = impl.index_of(found);
  StreamStats& stats = impl.stats.streams[index];
  stats.branches.push_back({.name = name, .skipped = stats.captured});
  found->branches().emplace_back(std::move(name), sink, std::move(options));
  return impl.running ? impl.begin_branch(index) : Result<void>{};
}

// --- Preparing

Result<void> Pipeline::Impl::prepare_stream(std::size_t index, const StreamRequest& wishes) {
  auto made = streams[index].prepare(wishes, allocators);
  if (!made) {
    refusal = std::move(made.error());
    return std::unexpected(refusal->error);
  }
  refusal.reset();
  note_plans();
  return {};
}

void Pipeline::Impl::note_plans() {
  plans.clear();
  for (const Stream& stream : streams) {
    for (Plan& plan : stream.plans()) plans.push_back(std::move(plan));
  }
}

Result<std::vector<Plan>> Pipeline::prepare(const StreamRequest& request) {
  Impl& impl = *impl_;
  if (impl.streams.empty() || impl.running) {
    impl.refusal = Refused{.error = Error::os(impl.running ? EBUSY : EINVAL, "Pipeline::prepare")
                                        .detail(impl.running ? "it is running" : "no source was connected")};
    return std::unexpected(impl.refusal->error);
  }
  impl.request = request;
  for (std::size_t i = 0; i < impl.streams.size(); ++i) {
    Stream& stream = impl.streams[i];
    stream.retry_failed();
    stream.set_off(stream.branches().empty());
    if (stream.is_off()) continue;
    if (auto made = impl.prepare_stream(i, impl.wishes_for(i)); !made) {
      for (Stream& one : impl.streams) one.forget();
      impl.plans.clear();
      impl.prepared = false;
      return std::unexpected(impl.refusal->error);
    }
  }
  impl.prepared = true;
  return impl.plans;
}

// --- Starting and stopping

Result<void> Pipeline::start() {
  if (impl_->running) return {};
  if (!impl_->prepared) {
    if (auto made = prepare(impl_->request); !made) return std::unexpected(made.error());
  }
  return impl_->start();
}

// Reserves memory for everything that an iteration of the loop waits for.
void Pipeline::Impl::reserve() {
  std::size_t most = 2 + 2 * watched.size();  // the stop descriptors, and for each object its descriptor and a fence
  for (const Stream& stream : streams) {
    most += 3;
    for (const Branch& branch : stream.branches()) most += 2 * (1 + branch.stages().size());
  }
  due.reserve(watched.size());
  polls.reserve(most);
  entries.reserve(most);
}

Result<void> Pipeline::Impl::start() {
  frame_limit = 0;
  reserve();
  stats.per_second.reserve(seconds_kept);
  per_second.counts = &stats.per_second;
  per_second.recent = &stats.recent;
  running = true;
  for (std::size_t i = 0; i < streams.size(); ++i) before_run[i] = stats.streams[i].captured;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (streams[i].is_off()) continue;
    if (auto started = start_stream(i); !started) {
      stop(Deadline::immediate(), nullptr);
      return started;
    }
  }
  return epoll ? arm() : Result<void>{};
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
  if (auto quiet = impl_->check_quiet("Pipeline::stop"); !quiet) return quiet;
  return impl_->running ? impl_->stop(deadline, cancel) : Result<void>{};
}

// --- Running

// The fewest frames over the streams still running.
std::uint64_t Pipeline::Impl::captured() const noexcept {
  std::uint64_t least = ~std::uint64_t{0};
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (!streams[i].ended() && !streams[i].is_off()) least = std::min(least, stats.streams[i].captured - before_run[i]);
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
  std::uint64_t seen_changes = changes;
  bool stopped = false;
  while (running && !stopped && !all_ended() && now < end && (options.frames == 0 || captured() < options.frames)) {
    if (std::exchange(seen_changes, changes) != changes) {
      watch = ProgressWatch(streams, options.frame_timeout);
      watch.begin(now);
    }
    auto done = step(Deadline::at(std::min({end, next_progress, watch.next()})), stop_fds, &stopped);
    if (!done) return std::unexpected(done.error());
    if (seen_changes == changes) {
      if (auto goes_on = watch.check(stats.streams, now); !goes_on && !stopped) {
        const auto& stalled = goes_on.error();
        if (auto others = survive(stalled.stream, {.branch = stalled.branch, .error = stalled.error}); !others)
          return others;
      }
    }
    if (now < next_progress) continue;
    while (next_progress <= now) next_progress += progress_interval;  // once, no matter how long the loop was blocked
    if (options.progress) options.progress(stats);
  }
  return {};
}

Result<void> Pipeline::run(const RunOptions& options) {
  detail::ProgressWatch watch(impl_->streams, options.frame_timeout);  // before frames move, because it allocates
  if (auto started = start(); !started) return started;
  auto result = impl_->loop(options, watch);
  auto stopped = impl_->running ? impl_->stop(Deadline::after(Impl::drain_time), nullptr) : Result<void>{};
  return result ? stopped : result;
}

void Pipeline::watch(Pollable& object) {
  impl_->watched.push_back(&object);
  static_cast<void>(impl_->note_change());
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

}  // namespace dmaflow
