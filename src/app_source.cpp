#include <dmaflow/app_source.hpp>

#include "app_frame.hpp"
#include "buffer_maps.hpp"
#include "event.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <utility>

#include <poll.h>

namespace dmaflow {

struct AppSource::Impl {
  Impl(std::vector<StreamConfig> offered, AppSourceOptions wanted, detail::Event made)
      : configs(std::move(offered)), options(std::move(wanted)), event(std::move(made)) {}

  const std::vector<StreamConfig> configs;
  const AppSourceOptions options;
  const detail::Event event;  // readable after push() and end()
  StreamConfig output;

  // Shared by the program's threads and the loop's. What HoldSet calls the source's thread is the loop's thread; the
  // program's threads only lend free buffers, under this mutex.
  std::mutex mutex;
  std::condition_variable changed;  // a buffer may be free, or none will become free any more
  std::shared_ptr<HoldSet> holds;   // null while stopped
  std::array<Frame, HoldSet::max_buffers> pushed;
  std::size_t first = 0;
  std::size_t count = 0;
  std::vector<std::uint32_t> free;  // in the order they came back
  std::uint64_t sequence = 0;
  bool ended = false;

  [[nodiscard]] Error error(int code, const char* operation) const { return Error::os(code, operation, options.name); }
  /// The first free buffer that no device reads any more; nullopt if there is none.
  [[nodiscard]] std::optional<std::uint32_t> take_free() noexcept {
    const auto is_at_rest = [this](std::uint32_t index) {
      return std::ranges::all_of(holds->fences(index), [](const Fence& fence) {
        const auto state = fence.state();
        return !state || *state != Fence::State::active;
      });
    };
    const auto found = std::ranges::find_if(free, is_at_rest);
    if (found == free.end()) return std::nullopt;
    const std::uint32_t index = *found;
    free.erase(found);
    return index;
  }
};

AppSource::AppSource(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
AppSource::~AppSource() { stop(); }

Result<std::unique_ptr<AppSource>> AppSource::create(std::vector<StreamConfig> configs, AppSourceOptions options) {
  const auto invalid = [&](const char* why) {
    return std::unexpected(Error::os(EINVAL, "AppSource::create", options.name).detail("%s", why));
  };
  if (configs.empty()) return invalid("there is no config");
  if (options.filling < 1 || options.filling > 32) return invalid("filling must be 1 to 32");
  auto event = detail::Event::create(options.name);
  if (!event) return std::unexpected(event.error());
  for (StreamConfig& config : configs) config.layout.planes = {};
  return std::unique_ptr<AppSource>(
      new AppSource(std::make_unique<Impl>(std::move(configs), std::move(options), std::move(*event))));
}

// --- For the program ---

Result<Frame> AppSource::acquire(Deadline deadline) {
  Impl& my = *impl_;
  std::unique_lock lock(my.mutex);
  while (true) {
    if (my.ended) return std::unexpected(my.error(EPIPE, "AppSource::acquire").detail("end() was called"));
    if (!my.holds) return std::unexpected(my.error(EINVAL, "AppSource::acquire").detail("not started"));
    if (const auto index = my.take_free()) return my.holds->lend(*index, {});
    my.event.signal();  // lets the loop collect returned frames: a display returns them without waking it
    if (deadline.remaining() == Deadline::Clock::duration::zero()) break;
    // A fence of a free buffer wakes nobody, so it is polled.
    const auto soon = my.free.empty() ? deadline.time()
                                      : std::min(deadline.time(), Deadline::after(std::chrono::milliseconds(2)).time());
    my.changed.wait_until(lock, soon);
  }
  return std::unexpected(
      my.error(EAGAIN, "AppSource::acquire").detail("all %zu buffers are in use", my.holds->buffers().size()));
}

Result<void> AppSource::push(Frame frame, FrameInfo info, Fence ready) {
  Impl& my = *impl_;
  const std::lock_guard lock(my.mutex);
  if (my.ended) return std::unexpected(my.error(EPIPE, "AppSource::push").detail("end() was called"));
  const auto buffers = my.holds ? my.holds->buffers() : std::span<const Buffer>();
  if (!frame || frame.index() >= buffers.size() || buffers[frame.index()] != frame.buffer() ||
      my.count == my.pushed.size()) {
    return std::unexpected(my.error(EINVAL, "AppSource::push").detail("the frame is not from acquire() of this run"));
  }
  detail::complete(info, frame.buffer(), my.sequence);
  if (auto described = frame.set_info(info, std::move(ready)); !described) return described;
  ++my.sequence;
  my.pushed[(my.first + my.count) % my.pushed.size()] = std::move(frame);
  ++my.count;
  my.event.signal();
  return {};
}

void AppSource::end() noexcept {
  const std::lock_guard lock(impl_->mutex);
  impl_->ended = true;
  impl_->changed.notify_all();
  impl_->event.signal();
}

// --- For the pipeline ---

std::string_view AppSource::name() const noexcept { return impl_->options.name; }
const StreamConfig& AppSource::output() const noexcept { return impl_->output; }
std::uint32_t AppSource::min_buffers() const noexcept { return impl_->options.filling; }
bool AppSource::writes_by_cpu() const noexcept { return impl_->options.writes_by_cpu; }
int AppSource::poll_fd() const noexcept { return impl_->event.fd(); }
short AppSource::poll_events() const noexcept { return POLLIN; }
HoldSet* AppSource::holds() noexcept { return impl_->holds.get(); }

Result<std::vector<StreamConfig>> AppSource::offers(const StreamRequest& request) {
  std::vector<StreamConfig> fitting;
  for (const StreamConfig& config : impl_->configs) {
    const auto& formats = request.formats;
    if (request.size && *request.size != config.layout.size) continue;
    if (request.interval && config.interval != Interval{} && *request.interval != config.interval) continue;
    if (!formats.empty() && std::ranges::find(formats, config.layout.format) == formats.end()) continue;
    fitting.push_back(config);
  }
  if (!fitting.empty()) return fitting;
  std::string has;
  for (const StreamConfig& config : impl_->configs) has += (has.empty() ? "" : ", ") + config.describe();
  return std::unexpected(impl_->error(EINVAL, "AppSource::offers").detail("it makes %s", has.c_str()));
}

Result<void> AppSource::set_output(const StreamConfig& config) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->holds) return std::unexpected(impl_->error(EBUSY, "AppSource::set_output").detail("it is started"));
  const bool is_known = std::ranges::any_of(impl_->configs, [&](const StreamConfig& one) {
    return one.layout.size == config.layout.size && one.layout.format == config.layout.format;
  });
  if (!is_known)
    return std::unexpected(impl_->error(EINVAL, "AppSource::set_output").detail("%s", config.describe().c_str()));
  impl_->output = config;
  return {};
}

Result<void> AppSource::try_output(const Buffer& buffer) {
  const Layout& layout = buffer.layout();
  if (layout.size != impl_->output.layout.size || layout.format != impl_->output.layout.format)
    return std::unexpected(impl_->error(EINVAL, "AppSource::try_output").detail("another size or format"));
  if (!impl_->options.writes_by_cpu) return {};
  return detail::try_map(buffer, Access::write);
}

Result<void> AppSource::start(std::span<const Buffer> buffers) {
  Impl& my = *impl_;
  auto holds = HoldSet::create({buffers.begin(), buffers.end()});
  if (!holds) return std::unexpected(holds.error());
  const std::lock_guard lock(my.mutex);
  my.free.clear();
  my.free.reserve(HoldSet::max_buffers);
  for (std::uint32_t i = 0; i < buffers.size(); ++i) my.free.push_back(i);
  my.holds = std::move(*holds);
  my.changed.notify_all();
  return {};
}

Result<void> AppSource::stop() noexcept {
  Impl& my = *impl_;
  const std::lock_guard lock(my.mutex);
  for (; my.count > 0; --my.count) {
    my.pushed[my.first].release();
    my.first = (my.first + 1) % my.pushed.size();
  }
  my.free.clear();
  my.holds.reset();
  my.changed.notify_all();
  return {};
}

Result<void> AppSource::dispatch(short revents) {
  Impl& my = *impl_;
  if ((revents & POLLIN) != 0) my.event.clear();
  const std::lock_guard lock(my.mutex);
  if (!my.holds) return {};
  bool came_back = false;
  while (const auto back = my.holds->take_returned()) {
    my.free.push_back(back->index);  // within its capacity
    came_back = true;
  }
  if (came_back) my.changed.notify_all();
  return {};
}

Result<Frame> AppSource::take() {
  Impl& my = *impl_;
  const std::lock_guard lock(my.mutex);
  if (my.count > 0) {
    Frame frame = std::move(my.pushed[my.first]);
    my.first = (my.first + 1) % my.pushed.size();
    --my.count;
    return frame;
  }
  if (my.ended) return std::unexpected(my.error(EPIPE, "AppSource::take").detail("the stream has ended"));
  return Frame();
}

}  // namespace dmaflow
